package local

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
)

// Namespace that Rollcall's own objects live in.
const Namespace = "rollcall-system"

// System says how to run a manager and gateways on this machine.
type System struct {
	// Admin makes the accounts' tokens and nothing else.
	Admin *rest.Config
	// Bin has the binaries; Dir gets kubeconfigs and tokens, LogDir a log of each process.
	Bin, Dir, LogDir string
	// GatewayAddress is host:port that agents dial.
	GatewayAddress string
	// GatewayListen is where the gateway itself listens if something stands before it; empty: GatewayAddress.
	GatewayListen string
	// ManagerProgram is the manager's binary in Bin; empty: rollcall-manager.
	ManagerProgram string
	// ManagerArgs and GatewayArgs are appended to the flags that every run needs.
	ManagerArgs, GatewayArgs []string
}

// ManagerAccount and GatewayAccount are the processes' service accounts.
const (
	ManagerAccount = "rollcall-manager"
	GatewayAccount = "rollcall-gateway"
)

// StartManager starts a manager under its own account. It is up once it has published the fleet's first beacon.
func (s System) StartManager(ctx context.Context) (*Process, error) {
	kubeconfig, err := s.managerKubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(s.GatewayAddress)
	if err != nil {
		return nil, fmt.Errorf("the gateway's address: %w", err)
	}
	health, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	metrics, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	p, err := Start("manager", s.log("manager"), filepath.Join(s.Bin, cmp.Or(s.ManagerProgram, "rollcall-manager")), append([]string{
		"--kubeconfig=" + kubeconfig, "--namespace=" + Namespace,
		"--gateway-url=https://" + s.GatewayAddress, "--gateway-names=localhost,127.0.0.1," + host,
		"--gateway-token-file=" + s.gatewayToken(), "--artifact-store=" + s.Artifacts(),
		"--health-listen=" + health, "--metrics-listen=" + metrics,
	}, s.ManagerArgs...)...)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(s.Admin)
	if err != nil {
		return nil, fmt.Errorf("start the manager: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return p, p.WaitFor(ctx, func(ctx context.Context) error {
		if err := Healthy(ctx, "http://"+health+"/readyz"); err != nil {
			return err
		}
		_, err := client.CoreV1().ConfigMaps(Namespace).Get(ctx, "rollcall-beacon", metav1.GetOptions{})
		return err
	})
}

// RefreshManagerToken puts a new token where the manager reads it.
func (s System) RefreshManagerToken(ctx context.Context) error {
	return WriteToken(ctx, s.Admin, Namespace, ManagerAccount, filepath.Join(s.Dir, "manager.token"))
}

func (s System) managerKubeconfig(ctx context.Context) (string, error) {
	if err := s.RefreshManagerToken(ctx); err != nil {
		return "", err
	}
	path := filepath.Join(s.Dir, "manager.kubeconfig")
	return path, WriteKubeconfig(path, s.Admin, filepath.Join(s.Dir, "manager.token"), Namespace)
}

// StartGateway starts a gateway with the token that the manager writes. It is up once it says that it is ready.
func (s System) StartGateway(ctx context.Context) (*Process, error) {
	p, ready, err := s.LaunchGateway("gateway", cmp.Or(s.GatewayListen, s.GatewayAddress))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return p, p.WaitFor(ctx, ready)
}

// LaunchGateway starts a gateway on an address and returns what tells whether it is ready.
func (s System) LaunchGateway(name, address string) (*Process, func(context.Context) error, error) {
	kubeconfig := filepath.Join(s.Dir, "gateway.kubeconfig")
	if err := WriteKubeconfig(kubeconfig, s.Admin, "", Namespace); err != nil {
		return nil, nil, err
	}
	health, err := FreeAddress()
	if err != nil {
		return nil, nil, err
	}
	p, err := Start(name, s.log(name), filepath.Join(s.Bin, "rollcall-gateway"), append([]string{
		"--kubeconfig=" + kubeconfig, "--token-file=" + s.gatewayToken(), "--namespace=" + Namespace,
		"--listen=" + address, "--names=localhost,127.0.0.1", "--health-listen=" + health,
		"--artifact-store=" + s.Artifacts(),
	}, s.GatewayArgs...)...)
	return p, func(ctx context.Context) error { return Healthy(ctx, "http://"+health+"/readyz") }, err
}

func (s System) gatewayToken() string { return filepath.Join(s.Dir, "gateway.token") }

// Artifacts is where the manager keeps them and gateways find them; Dir is absolute.
func (s System) Artifacts() string { return "file://" + filepath.Join(s.Dir, "artifacts") }

func (s System) log(name string) string { return filepath.Join(s.LogDir, name+".log") }

// Healthy asks a health route and returns nil if it answers 200.
func Healthy(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// FreeAddress is a loopback address that nobody listens on (controlplane.FreePort).
func FreeAddress() (string, error) {
	port, err := controlplane.FreePort()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), err
}
