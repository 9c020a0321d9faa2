# Packages of Python in an environment of their own, of them one with libraries in C.
python3 -m venv "$SCRATCH/venv" || cannot "python3 has no venv"
python3 -m venv environment
environment/bin/pip download -q --no-deps -d "$SCRATCH/wheels" requests || cannot "no packages can be downloaded"
environment/bin/pip install -q --no-cache-dir requests flask numpy
environment/bin/pip check
environment/bin/python -c 'import requests, flask, numpy; assert numpy.ones(3).sum() == 3'
environment/bin/pip uninstall -qy flask
! environment/bin/python -c 'import flask' 2>/dev/null
