# packages: ffmpeg imagemagick graphviz
# shellcheck disable=SC2086
link_programs $closure
