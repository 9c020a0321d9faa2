java -version 2>&1 | grep 'openjdk version "17'
