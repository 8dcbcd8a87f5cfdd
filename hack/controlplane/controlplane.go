package controlplane

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	startTimeout = time.Minute
	stopGrace    = 10 * time.Second
	// lockPatience is for a guard that still cleans up after a killed process.
	lockPatience = 3 * time.Second

	saKey = "sa.key"
	// issuer of service account tokens: the usual one, the same whatever the port.
	issuer = "https://kubernetes.default.svc.cluster.local"
)

//go:embed audit-policy.yaml
var auditPolicy []byte

// Config says what to run and where its state is.
type Config struct {
	// AssetsDir holds the binaries: what Ensure returned.
	AssetsDir string
	// StateDir keeps the cluster: etcd's data, keys, ports. A later Start on the
	// same directory goes on with the same cluster. Empty: a temporary one,
	// removed by Stop.
	StateDir string
	// LogDir gets one log per process, and audit.log. Empty: log in StateDir.
	LogDir string
	// APIServerFlags are further flags of kube-apiserver, by name without
	// dashes. They win over the flags set here.
	APIServerFlags map[string]string
	// Controllers of kube-controller-manager. Nil: those that Rollcall relies on
	// where there are no nodes.
	Controllers []string
}

// ControlPlane is a running cluster without nodes. Its methods may be called
// concurrently.
type ControlPlane struct {
	cfg       Config
	temporary bool
	lock      *fileLock
	guard     *exec.Cmd
	ca        *authority
	ports     ports
	admin     *rest.Config

	mu                sync.Mutex
	etcd              *envtest.Etcd
	apiServer         *envtest.APIServer // nil while it is stopped
	controllerManager *child
}

// Start runs etcd, kube-apiserver and kube-controller-manager, and returns when
// the API server answers and the controllers work. They end with Stop, and also
// when this process dies without it. The context bounds the start only.
func Start(ctx context.Context, cfg Config) (_ *ControlPlane, err error) {
	c := &ControlPlane{cfg: cfg, temporary: cfg.StateDir == ""}
	if err := c.directories(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	for _, step := range []func(context.Context) error{
		c.claim, c.prepare, c.startEtcd, c.startAPIServer, c.startControllerManager, c.awaitControllers,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("start the control plane: %w", context.Cause(ctx))
		}
	}
	return c, nil
}

// directories makes all paths absolute and without links: processes are
// recognized by them.
func (c *ControlPlane) directories() (err error) {
	if c.temporary {
		c.cfg.StateDir, err = os.MkdirTemp("", "rollcall-controlplane-")
	} else {
		err = os.MkdirAll(c.cfg.StateDir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if c.cfg.StateDir, err = filepath.EvalSymlinks(c.cfg.StateDir); err != nil {
		return err
	}
	c.cfg.LogDir = cmp.Or(c.cfg.LogDir, filepath.Join(c.cfg.StateDir, "log"))
	for _, dir := range []*string{&c.cfg.StateDir, &c.cfg.LogDir, &c.cfg.AssetsDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{c.state("pki"), c.state("etcd"), c.cfg.LogDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// claim makes this process the only one that runs the cluster.
func (c *ControlPlane) claim(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	holder := ""
	lock, err := waitLock(waiting, c.state("lock"), func(h string) { holder = h })
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the cluster in %s is run by %s already", c.cfg.StateDir, cmp.Or(holder, "another process"))
	}
	if err != nil {
		return fmt.Errorf("lock the state directory: %w", err)
	}
	c.lock = lock
	if err := reap(ctx, c.marks()...); err != nil {
		return fmt.Errorf("end what an earlier run left behind: %w", err)
	}
	c.guard, err = startGuard(c.cfg.StateDir, c.temporary, lock)
	return err
}

// prepare writes keys, certificates and configuration.
func (c *ControlPlane) prepare(context.Context) (err error) {
	if c.ports, err = loadPorts(c.cfg.StateDir); err != nil {
		return err
	}
	if c.ca, err = loadPKI(c.state("pki")); err != nil {
		return fmt.Errorf("keys and certificates of the control plane: %w", err)
	}
	if err := c.ca.serve(c.state("pki")); err != nil {
		return err
	}
	if c.admin, err = c.UserConfig("admin", "system:masters"); err != nil {
		return err
	}
	kcm, err := c.UserConfig("system:kube-controller-manager")
	if err != nil {
		return err
	}
	return errors.Join(
		WriteKubeconfig(kcmKubeconfig(c.cfg.StateDir), "rollcall", "", kcm),
		os.WriteFile(c.state("audit-policy.yaml"), auditPolicy, 0o600))
}

// AdminConfig returns the configuration of the cluster's administrator (group
// system:masters), without a limit on requests.
func (c *ControlPlane) AdminConfig() *rest.Config { return rest.CopyConfig(c.admin) }

// UserConfig returns the configuration of a person with a client certificate.
// What they may do is up to RBAC.
func (c *ControlPlane) UserConfig(name string, groups ...string) (*rest.Config, error) {
	base := &rest.Config{Host: "https://127.0.0.1:" + strconv.Itoa(c.ports.APIServer), QPS: -1}
	base.CAData = c.ca.pem
	return c.ca.AddUser(envtest.User{Name: name, Groups: groups}, base)
}

// AuditLog returns the path of the API server's audit log: JSON, one event a
// line, of stage ResponseComplete (and ResponseStarted for watches). It is
// renamed at 1 GiB.
func (c *ControlPlane) AuditLog() string { return filepath.Join(c.cfg.LogDir, "audit.log") }

// Kubectl returns the path of a kubectl of the same version.
func (c *ControlPlane) Kubectl() string { return filepath.Join(c.cfg.AssetsDir, "kubectl") }

// StopAPIServer ends kube-apiserver in good order, or kills it when that takes
// longer than ten seconds. The others go on.
func (c *ControlPlane) StopAPIServer(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopAPIServer()
	return reap(ctx, apiServerMark(c.cfg.StateDir))
}

// stopAPIServer leaves a server that does not end to reap.
func (c *ControlPlane) stopAPIServer() {
	if c.apiServer != nil {
		_ = c.apiServer.Stop()
		c.apiServer = nil
	}
}

// KillAPIServer ends kube-apiserver with SIGKILL. The others go on.
func (c *ControlPlane) KillAPIServer(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := reap(ctx, apiServerMark(c.cfg.StateDir))
	c.stopAPIServer()
	return err
}

// StartAPIServer starts a stopped kube-apiserver again, on the same port and
// the same etcd, and returns when it answers.
func (c *ControlPlane) StartAPIServer(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.apiServer != nil {
		return errors.New("kube-apiserver runs already")
	}
	return c.startAPIServer(ctx)
}

// Stop ends all processes and waits for them: in good order where the cluster
// is kept, at once where it is not. A temporary cluster is removed, with its logs
// unless LogDir was set. Stop may be called again.
func (c *ControlPlane) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lock == nil {
		return nil
	}
	if !c.temporary {
		c.stopInOrder()
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	errs := []error{reap(ctx, c.marks()...)}
	if c.guard != nil {
		stopGuard(c.guard)
	}
	if c.temporary {
		errs = append(errs, os.RemoveAll(c.cfg.StateDir))
	}
	errs = append(errs, c.lock.Release())
	c.lock = nil
	return errors.Join(errs...)
}

// stopInOrder leaves to reap what does not end.
func (c *ControlPlane) stopInOrder() {
	if c.controllerManager != nil {
		c.controllerManager.stop(stopGrace)
	}
	c.stopAPIServer()
	if c.etcd != nil {
		_ = c.etcd.Stop()
	}
}

func (c *ControlPlane) marks() []string {
	state := c.cfg.StateDir
	return []string{etcdMark(state), apiServerMark(state), controllerManagerMark(state)}
}

func (c *ControlPlane) state(elem ...string) string {
	return filepath.Join(append([]string{c.cfg.StateDir}, elem...)...)
}

func kcmKubeconfig(state string) string {
	return filepath.Join(state, "pki", "kube-controller-manager.kubeconfig")
}
