nginx -t -e stderr -c "$ENV/etc/nginx/nginx.conf" 2>&1 | grep -q 'test is successful'
mkdir services && cp -r "$ENV/service/nginx" services/ && chmod -R u+w services
s6-svscan services &
for _ in $(seq 100); do
  if answer=$( (exec 3<>/dev/tcp/127.0.0.1/8081 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3) 2>/dev/null); then break; fi
  sleep 0.1
done
s6-svstat services/nginx | grep -q ^up
s6-svscanctl -t services && wait
grep -q '200 OK' <<<"$answer"
grep 'nginx under s6' <<<"$answer"
