# packages: 
link_programs
