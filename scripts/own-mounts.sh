# Sourced by a script in the top directory, with its arguments: starts it again in a mount namespace of its own. So no process elsewhere on
# this host that makes itself a namespace meanwhile (a container, a service, a test) gets a copy of its mounts and keeps its views in use.
if [[ ${OWN_MOUNTS-} != "$$" ]]; then
  OWN_MOUNTS=$$ exec unshare --mount --propagation private "scripts/${0##*/}" "$@"
fi
unset OWN_MOUNTS
