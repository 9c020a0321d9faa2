python3 -c '
import asyncio, ctypes, hashlib, json, sqlite3, ssl, sys, zlib
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
assert ssl.create_default_context() and asyncio.run(asyncio.sleep(0, 1)) == 1
assert sys.prefix.startswith("/nix/store/"), sys.prefix
print(sys.version.split()[0], ssl.OPENSSL_VERSION)'
