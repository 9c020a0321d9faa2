# packages: git perl openssh-client less
link_programs
perl
core=$(find1 lib/git-core/git)
lines="export GIT_EXEC_PATH=${core%/git} PERL5LIB=$perl5lib GIT_TEMPLATE_DIR=$(find1 share/git-core/templates)"
wrap git "$(find1 bin/git)" "$lines"
