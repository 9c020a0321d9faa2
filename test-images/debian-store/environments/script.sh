# packages: ruby3.1 lua5.4 tcl8.6 php8.2-cli erlang-base
link_programs
