# packages: openjdk-17-jre-headless
link_programs
ln -sfn "$(find1 lib/jvm/java-17-openjdk-amd64)/bin/java" bin/java
