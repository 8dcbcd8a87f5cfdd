// Package node runs a Kubernetes cluster of one real node on this machine: the control plane of hack/controlplane, and beside it kubelet,
// kube-scheduler, kube-proxy, containerd and runc, which run Pods.
//
// All of it, and whoever uses it, lives in namespaces of its own (mount, network, PID, host name, IPC, cgroup): [Enter] starts this program
// again in them, and there [Start] starts the cluster. The network has no way out, so nothing that is meant for the node ever leaves the
// machine, and the end of the namespaces is the end of everything in them.
//
// It needs Linux with cgroup v1, root, and a few programs that [Missing] names.
package node
