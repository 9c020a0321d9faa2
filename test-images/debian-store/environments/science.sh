# packages: python3.11 python3.11-minimal python3-numpy python3-pil python3-lxml python3-yaml
link_programs
python
