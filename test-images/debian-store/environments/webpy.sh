# packages: python3.11 python3.11-minimal python3-flask python3-requests python3-sqlalchemy python3-cryptography nginx redis-tools
link_programs
python
