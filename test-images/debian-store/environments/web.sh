# packages: nginx nginx-common s6 execline
# nginx on 127.0.0.1:8081 as a service of s6: copy $out/service somewhere writable and run s6-svscan on it.
link_programs
mkdir -p etc/nginx service/nginx
cat >etc/nginx/nginx.conf <<'CONF'
user root root;
daemon off;
master_process off;
pid /tmp/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server {
    listen 127.0.0.1:8081;
    location / { return 200 "served by nginx under s6\n"; }
  }
}
CONF
cat >service/nginx/run <<RUN
#!$(find1 lib/execline/bin/execlineb) -P
$(find1 lib/execline/bin/fdmove) -c 2 1
$(find1 bin/nginx) -e stderr -c $out/etc/nginx/nginx.conf
RUN
chmod +x service/nginx/run
