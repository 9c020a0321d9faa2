# packages: jq ripgrep vim-tiny tmux strace rsync curl wget file less util-linux
link_programs
