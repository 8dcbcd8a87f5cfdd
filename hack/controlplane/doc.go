// Package controlplane runs a real Kubernetes control plane on this machine:
// etcd, kube-apiserver and kube-controller-manager, compiled from Go modules.
//
// [Ensure] compiles the binaries once per version into the user's cache
// directory. [Start] runs them through envtest, with kube-controller-manager
// beside it, RBAC on and an audit log. Tests use a temporary cluster; `make run`
// keeps one in a state directory and comes back to it.
//
// It is for development and tests: etcd listens on a loopback port without
// authentication and does not flush to disk, so a power cut can lose writes
// (the death of a process cannot).
package controlplane
