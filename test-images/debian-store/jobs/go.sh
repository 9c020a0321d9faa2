go version | grep 'go1.19'
go env GOROOT | grep -q ^/nix/store/
