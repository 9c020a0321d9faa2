# packages: ruby3.1 lua5.4 tcl8.6 php8.2-cli erlang-base
link_programs
wrap tclsh8.6 "$(find1 bin/tclsh8.6)" "export TCL_LIBRARY=$(find1 share/tcltk/tcl8.6)"
