// The etcd that tests run. It imports nothing: `go build` is given the command by name.
module peerload/tools/etcd

go 1.26.0

require go.etcd.io/etcd/server/v3 v3.6.16
