//! A job for each environment: a real program of it, which writes a line.

/// The job of an environment: lines for its bash, with `ENV` and, writable, the current directory.
pub(crate) fn of(environment: &str) -> &'static str {
    JOBS.iter().find(|(name, _)| *name == environment).map_or("bash --version", |(_, job)| job)
}

const JOBS: &[(&str, &str)] = &[
    ("base", r"printf 'b\na\n' | sort | head -1"),
    (
        "python",
        "python3 -c 'import ssl, sqlite3, json, ctypes, zlib, asyncio, sys; print(sys.version.split()[0], ssl.OPENSSL_VERSION)'",
    ),
    (
        "science",
        "python3 -c 'import numpy, PIL, lxml.etree, yaml; print(numpy.linalg.inv(numpy.eye(3) * 2)[0])'",
    ),
    (
        "webpy",
        "python3 -c 'import flask, requests, sqlalchemy; from cryptography.fernet import Fernet; print(Fernet.generate_key())'",
    ),
    ("node", r#"node -e 'console.log(require("crypto").createHash("sha256").update("a").digest("hex"))'"#),
    ("c", r#"printf '#include <stdio.h>\nint main(void) { puts("C"); }\n' >a.c; gcc -O2 a.c -o a && ./a"#),
    (
        "cxx",
        r#"printf '#include <iostream>\nint main() { std::cout << "C++\\n"; }\n' >a.cc; g++ a.cc -o a && ./a"#,
    ),
    ("clang", r"printf 'int f(int x) { return x * x; }\n' >a.c; clang-14 -O2 -c a.c -o a.o && ls a.o"),
    ("web", "nginx -V 2>&1"),
    (
        "git",
        "git init -q r; git -C r -c user.name=a -c user.email=a@b commit -q --allow-empty -m one; git -C r log --oneline",
    ),
    ("perl", r#"perl -MJSON::PP -MDigest::SHA=sha1_hex -e 'print sha1_hex("a"), "\n"'"#),
    (
        "data",
        "sqlite3 :memory: 'select sqlite_version()'; psql --version; postgres --version; redis-cli --version",
    ),
    ("ops", r#"echo '{"a":1}' | jq .a; curl --version; rsync --version"#),
    (
        "java",
        "for p in $(<$ENV/nix-support/paths); do for j in $p/lib/jvm/java-17-openjdk-amd64/bin/java; do [ ! -x $j ] || $j -version 2>&1; done; done",
    ),
    ("go", "go version"),
    ("rust", r#"printf 'fn main() { println!("Rust"); }\n' >a.rs; rustc a.rs && ./a"#),
    (
        "media",
        "ffmpeg -v error -f lavfi -i testsrc=duration=1:size=32x32:rate=5 -f rawvideo out.raw && ls out.raw",
    ),
    (
        "script",
        r#"lua5.4 -e 'print(_VERSION)'; echo 'puts 42' | tclsh8.6; ruby3.1 --disable-gems -e 'puts 42'; php8.2 -r 'echo 42;'"#,
    ),
];
