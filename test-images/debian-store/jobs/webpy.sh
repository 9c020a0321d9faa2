python3 -c '
import flask, requests, sqlalchemy
from cryptography.fernet import Fernet
key = Fernet(Fernet.generate_key())
assert key.decrypt(key.encrypt(b"x")) == b"x"
app = flask.Flask("job")
app.route("/")(lambda: "hello")
assert app.test_client().get("/").data == b"hello"
assert sqlalchemy.create_engine("sqlite://").connect().execute(sqlalchemy.text("select 1")).scalar() == 1'
