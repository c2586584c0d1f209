// The Helm with which tests render the chart. It imports nothing: `go build` is given the command by name.
module peerload/tools/helm

go 1.26.0

require helm.sh/helm/v4 v4.3.1
