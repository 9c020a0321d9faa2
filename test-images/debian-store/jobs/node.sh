node -e '
const hash = require("crypto").createHash("sha256").update("a").digest("hex");
if (!hash.startsWith("ca978112")) process.exit(1);
console.log(process.version)'
