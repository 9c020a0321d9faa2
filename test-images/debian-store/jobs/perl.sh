perl -MJSON::PP -MDigest::SHA=sha1_hex -e 'print JSON::PP->new->encode([sha1_hex("a")]), "\n"' | grep 86f7e437
