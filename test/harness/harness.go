// Package harness gives tests a real API server with config/cluster applied, and a namespace each.
//
// `make test` starts one for the whole run and names its directory in ROLLCALL_TEST_CLUSTER. A package that is tested alone starts its
// own. Tests that break the control plane, or read its audit log, start a private one with Start.
package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/audit"
)

// Env names the directory of a control plane that runs already: admin.kubeconfig and audit.log are in it.
const Env = "ROLLCALL_TEST_CLUSTER"

// API is a real API server that has config/cluster.
type API struct {
	// Admin is the bootstrap administrator: for what a cluster's owner does, never for what a process of Rollcall does.
	Admin *rest.Config
	// Kubeconfig is the administrator's, KubectlPath the kubectl of the same version.
	Kubeconfig, KubectlPath string
	// AuditLog is the API server's.
	AuditLog string
	// ControlPlane is nil where the API server was started by somebody else.
	ControlPlane *controlplane.ControlPlane
	// rights is audit.RightsEnv, read while tests run: so go test does not take from its cache what would leave nothing there.
	rights string
}

// Stop ends a control plane that Start has started. What the programs have asked of it is kept for the judgement of the whole run.
func (a *API) Stop() error {
	return errors.Join(audit.Keep(a.AuditLog, a.rights), a.ControlPlane.Stop())
}

var shared struct {
	sync.Mutex
	api *API
	dir string // made here, to be removed at the end
}

// Main runs a package's tests and then stops what they shared. Use it as TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if shared.api != nil && shared.api.ControlPlane != nil {
		if err := shared.api.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// Cluster is the API server that the tests of a run share.
func Cluster(t testing.TB) *API {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.api != nil {
		return shared.api
	}
	api, err := connectOrStart(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	shared.api = api
	return api
}

func connectOrStart(ctx context.Context) (*API, error) {
	if dir := os.Getenv(Env); dir != "" {
		return Connect(ctx, dir)
	}
	dir, err := os.MkdirTemp("", "rollcall-test-")
	if err != nil {
		return nil, fmt.Errorf("start a control plane: %w", err)
	}
	shared.dir = dir
	return Start(ctx, dir)
}

// Start starts a control plane with its state in dir and applies config/cluster to it.
func Start(ctx context.Context, dir string) (*API, error) {
	assets, err := controlplane.Ensure(ctx, controlplane.Options{})
	if err != nil {
		return nil, err
	}
	cp, err := controlplane.Start(ctx, controlplane.Config{AssetsDir: assets, StateDir: dir, LogDir: filepath.Join(dir, "log")})
	if err != nil {
		return nil, err
	}
	api := &API{
		Admin: cp.AdminConfig(), Kubeconfig: filepath.Join(dir, "admin.kubeconfig"), KubectlPath: filepath.Join(assets, "kubectl"),
		AuditLog: cp.AuditLog(), ControlPlane: cp, rights: os.Getenv(audit.RightsEnv),
	}
	if err := controlplane.WriteKubeconfig(api.Kubeconfig, "rollcall-admin", "default", api.Admin); err != nil {
		return nil, err
	}
	_, err = local.Install(ctx, api.KubectlPath, api.Kubeconfig, api.Admin, Root())
	return api, err
}

// Connect uses the control plane whose administrator's kubeconfig and audit log are in dir.
func Connect(ctx context.Context, dir string) (*API, error) {
	assets, err := controlplane.Ensure(ctx, controlplane.Options{})
	if err != nil {
		return nil, err
	}
	api := &API{Kubeconfig: filepath.Join(dir, "admin.kubeconfig"), KubectlPath: filepath.Join(assets, "kubectl"), AuditLog: filepath.Join(dir, "log", "audit.log")}
	if api.Admin, err = clientcmd.BuildConfigFromFlags("", api.Kubeconfig); err != nil {
		return nil, fmt.Errorf("connect to the control plane in %s: %w", dir, err)
	}
	return api, nil
}

// Root is the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

var notDNS = regexp.MustCompile(`[^a-z0-9]+`)

// Namespace makes a namespace for this test. It is deleted afterwards, objects and all.
func (a *API) Namespace(t testing.TB) string {
	t.Helper()
	name := strings.Trim(notDNS.ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	name = strings.TrimRight(name[:min(len(name), 40)], "-") + "-"
	client := kubernetes.NewForConfigOrDie(a.Admin)
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{})
	})
	return ns.Name
}

// Kubectl runs kubectl as the administrator and returns standard output; a failure ends the test.
func (a *API) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := a.TryKubectl(t, "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// KubectlAs is Kubectl with --as.
func (a *API) KubectlAs(t testing.TB, user string, args ...string) string {
	t.Helper()
	return a.Kubectl(t, append([]string{"--as", user}, args...)...)
}

// TryKubectl runs kubectl as the administrator with stdin; the error holds what it printed on standard error.
func (a *API) TryKubectl(t testing.TB, stdin string, args ...string) (string, error) {
	t.Helper()
	return local.Kubectl(t.Context(), a.KubectlPath, a.Kubeconfig, stdin, args...)
}

// Person makes somebody with a platform team's rights in a namespace; secrets are those they may get.
func (a *API) Person(t testing.TB, namespace string, secrets ...string) Person {
	t.Helper()
	p, err := local.CreatePerson(t.Context(), a.Admin, namespace, "person", t.TempDir(), secrets...)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	return Person{Person: p, Client: clientOf(t, cfg), kubectl: a.KubectlPath}
}

// Person types kubectl with rights in one namespace.
type Person struct {
	local.Person
	// Client has the same rights. It costs a tenth of a kubectl: for what is looked at again and again.
	Client  client.Client
	kubectl string
}

// Kubectl runs kubectl as this person; a failure ends the test.
func (p Person) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := p.Try(t, "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Apply applies a manifest as this person.
func (p Person) Apply(t testing.TB, manifest string) string {
	t.Helper()
	out, err := p.Try(t, manifest, "apply", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Try runs kubectl as this person with stdin; the error holds what it printed on standard error.
func (p Person) Try(t testing.TB, stdin string, args ...string) (string, error) {
	t.Helper()
	return local.Kubectl(t.Context(), p.kubectl, p.Kubeconfig, stdin, args...)
}

// Eventually polls until check returns nil, for patience at most, and then fails with its last error.
func Eventually(t testing.TB, patience time.Duration, check func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("not within %s: %v", patience, err)
		case <-tick.C:
		}
	}
}
