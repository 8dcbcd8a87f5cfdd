//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/hack/local"
)

const (
	nodeName     = "node"
	pauseImage   = "rollcall.local/pause:1"
	socket       = "/run/containerd/containerd.sock"
	startTimeout = 2 * time.Minute
)

// Config says what to run.
type Config struct {
	// Dir is the node's directory, as Inside tells it.
	Dir string
	// ControlPlane and Node are directories of binaries: what controlplane.Ensure and EnsureNode returned.
	ControlPlane, Node string
	// Pause is the archive of an image that PauseImage has made.
	Pause string
}

// PauseImage is the image that holds Pods' namespaces, of a program built from hack/node/pause.
func PauseImage(program string) Image { return Image{Name: pauseImage, Program: program} }

// Node runs. It ends with its namespaces; nothing needs to be stopped.
type Node struct {
	// Admin is the administrator, and Kubeconfig theirs for Kubectl.
	Admin               *rest.Config
	Kubeconfig, Kubectl string
	// Logs is the directory with a log of each process, and of each container in pods.
	Logs string

	controlPlane *controlplane.ControlPlane // it ends when nobody holds it any more
}

// Start starts everything, and returns when the node is ready for Pods.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	n := &Node{Logs: filepath.Join(cfg.Dir, "log"), Kubectl: filepath.Join(cfg.ControlPlane, "kubectl"), Kubeconfig: filepath.Join(cfg.Dir, "admin.kubeconfig")}
	cp, err := controlplane.Start(ctx, controlplane.Config{
		AssetsDir: cfg.ControlPlane, StateDir: filepath.Join(cfg.Dir, "cluster"), LogDir: n.Logs, Controllers: []string{"*"},
		APIServerFlags: map[string]string{
			"bind-address": "0.0.0.0", "advertise-address": Address, "authorization-mode": "Node,RBAC", "enable-admission-plugins": "NodeRestriction",
		},
	})
	if err != nil {
		return nil, err
	}
	n.controlPlane, n.Admin = cp, cp.AdminConfig()
	if err := controlplane.WriteKubeconfig(n.Kubeconfig, "admin", "default", n.Admin); err != nil {
		return nil, err
	}
	for name, text := range configs(cfg.Dir) {
		path := filepath.Join(cfg.Dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			return nil, err
		}
	}
	if err := n.startContainerd(ctx, cfg); err != nil {
		return nil, err
	}
	for _, p := range []struct {
		program, user string
		groups, args  []string
	}{
		{"kube-scheduler", "system:kube-scheduler", nil, []string{"--leader-elect=false", "--secure-port=0"}},
		{"kubelet", "system:node:" + nodeName, []string{"system:nodes"}, []string{
			"--config=" + filepath.Join(cfg.Dir, "kubelet.yaml"), "--hostname-override=" + nodeName, "--node-ip=" + Address, "--root-dir=" + filepath.Join(cfg.Dir, "kubelet"),
		}},
		{"kube-proxy", "system:kube-proxy", nil, []string{"--config=" + filepath.Join(cfg.Dir, "kube-proxy.yaml"), "--hostname-override=" + nodeName}},
	} {
		user, err := cp.UserConfig(p.user, p.groups...)
		if err != nil {
			return nil, err
		}
		kubeconfig := filepath.Join(cfg.Dir, p.program+".kubeconfig")
		if err := controlplane.WriteKubeconfig(kubeconfig, "node", "", user); err != nil {
			return nil, err
		}
		if p.program != "kube-proxy" { // which has it in its configuration
			p.args = append(p.args, "--kubeconfig="+kubeconfig)
		}
		if _, err := local.Start(p.program, filepath.Join(n.Logs, p.program+".log"), filepath.Join(cfg.Node, p.program), p.args...); err != nil {
			return nil, err
		}
	}
	return n, n.await(ctx)
}

// podNetwork is where Pods have their addresses.
const podNetwork = "10.244.0.0/24"

// startContainerd starts it and gives it the one image that it needs by itself.
func (n *Node) startContainerd(ctx context.Context, cfg Config) error {
	p, err := local.Start("containerd", filepath.Join(n.Logs, "containerd.log"), "containerd", "--config="+filepath.Join(cfg.Dir, "containerd.toml"))
	if err != nil {
		return err
	}
	if err := p.WaitFor(ctx, func(ctx context.Context) error {
		return exec.CommandContext(ctx, "ctr", "--address="+socket, "version").Run()
	}); err != nil {
		return err
	}
	return n.Import(ctx, cfg.Pause)
}

// Outage takes the API server away for as long as during takes.
func (n *Node) Outage(ctx context.Context, during func() error) error {
	if err := n.controlPlane.StopAPIServer(ctx); err != nil {
		return err
	}
	return errors.Join(during(), n.controlPlane.StartAPIServer(ctx))
}

// Import brings an archive of an image to the node.
func (*Node) Import(ctx context.Context, archive string) error {
	if out, err := exec.CommandContext(ctx, "ctr", "--address="+socket, "--namespace=k8s.io", "images", "import", archive).CombinedOutput(); err != nil {
		return fmt.Errorf("import %s: %w: %s", archive, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// await waits until the node says that it is ready.
func (n *Node) await(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(n.Admin)
	if err != nil {
		return err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		state := "has not registered"
		if node, err := client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{}); err == nil {
			for _, c := range node.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					return nil
				}
				if c.Type == corev1.NodeReady {
					state = "says " + c.Message
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the node %s: %w; the kubelet's last words in %s:\n%s", state, ctx.Err(), n.Logs, local.Tail(filepath.Join(n.Logs, "kubelet.log"), 5))
		case <-tick.C:
		}
	}
}

// configs are the configuration files, by name in the node's directory.
func configs(dir string) map[string]string {
	return map[string]string{
		// restrict_oom_score_adj: a container need not be allowed to be killed last.
		"containerd.toml": `version = 2
root = "` + dir + `/containerd"
state = "/run/containerd"
[grpc]
  address = "` + socket + `"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "` + dir + `/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`,
		"cni/10-rollcall.conflist": `{"cniVersion": "1.0.0", "name": "rollcall", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "` + dir + `/cni-state", "ranges": [[{"subnet": "` + podNetwork + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`,
		"resolv.conf": "nameserver 127.0.0.1\n",
		"kubelet.yaml": `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
containerRuntimeEndpoint: unix://` + socket + `
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: ` + dir + `/cluster/pki/ca.crt}}
authorization: {mode: Webhook}
clusterDomain: cluster.local
resolvConf: ` + dir + `/resolv.conf
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%"}
volumePluginDir: ` + dir + `/volumeplugins
`,
		// What it would set has no namespace.
		"kube-proxy.yaml": `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: ` + podNetwork + `
clientConnection: {kubeconfig: ` + dir + `/kube-proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`,
	}
}
