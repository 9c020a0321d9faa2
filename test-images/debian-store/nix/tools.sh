# Builder of bootstrap-tools. There is no program yet but $boot/busybox.
set -e
bb=$boot/busybox
$bb mkdir -p "$out/bin"
$bb cp "$boot/busybox" "$boot/patchelf" "$out/bin"
cd "$out/bin"
for applet in $(./busybox --list); do
  [ -e "$applet" ] || ./busybox ln -s busybox "$applet"
done
