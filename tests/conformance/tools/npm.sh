# Packages of Node: installed, removed, and installed again from the lock file.
command -v npm >/dev/null || cannot "npm is not installed"
npm view lodash version || cannot "no packages can be downloaded"
mkdir project
cd project
npm init -y >/dev/null
npm install --no-audit --no-fund express lodash typescript
find node_modules -type f -exec sha256sum {} + | grep -v '/\.package-lock.json$' | sort >../first
rm -r node_modules
npm ci --no-audit --no-fund
find node_modules -type f -exec sha256sum {} + | grep -v '/\.package-lock.json$' | sort >../second
cmp ../first ../second
node -e 'require("express"); require("lodash")'
node_modules/.bin/tsc --version
npm ls
