# packages: python3.11 python3.11-minimal
link_programs
python
