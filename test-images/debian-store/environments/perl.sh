# packages: perl
link_programs
perl
