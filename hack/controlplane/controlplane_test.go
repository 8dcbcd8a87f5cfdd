package controlplane

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/kubernetes"
)

// TestControlPlane takes one cluster through its life: what people rely on in
// it, an API server that goes and comes, a stop, a second start.
func TestControlPlane(t *testing.T) {
	ctx := t.Context()
	cfg := Config{AssetsDir: assets(t), StateDir: t.TempDir(), APIServerFlags: map[string]string{"v": "1"}}
	c := start(t, cfg)
	client := kubernetes.NewForConfigOrDie(c.AdminConfig())

	t.Run("aggregated role", func(t *testing.T) { testAggregation(t, client) })
	t.Run("garbage collection", func(t *testing.T) { testGarbageCollection(t, client) })
	t.Run("service account", func(t *testing.T) { testServiceAccount(t, c, client) })
	t.Run("person", func(t *testing.T) { testPerson(t, c) })
	t.Run("kubectl", func(t *testing.T) { testKubectl(t, c) })
	t.Run("audit log", func(t *testing.T) { testAudit(t, c, client) })
	t.Run("one process per cluster", func(t *testing.T) {
		if _, err := Start(ctx, cfg); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("is run by process %d", os.Getpid())) {
			t.Errorf("a second start on the same state: %v", err)
		}
	})

	uid := clusterUID(t, client)
	for _, away := range []struct {
		how  string
		stop func(context.Context) error
	}{{"stopped", c.StopAPIServer}, {"killed", c.KillAPIServer}} {
		t.Run("API server "+away.how, func(t *testing.T) {
			if err := away.stop(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Discovery().ServerVersion(); err == nil {
				t.Fatal("it still answers")
			}
			if err := c.StartAPIServer(ctx); err != nil {
				t.Fatal(err)
			}
			if got := clusterUID(t, client); got != uid { // the same client, so the same port and keys
				t.Errorf("the cluster is %s now, was %s", got, uid)
			}
		})
	}

	admin := c.AdminConfig()
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	assertGone(t, c)
	if err := c.Stop(); err != nil {
		t.Errorf("a second stop: %v", err)
	}

	taken, err := net.Listen("tcp", strings.TrimPrefix(admin.Host, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Start(ctx, cfg)
	if want := fmt.Sprintf("taken by process %d (", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a start while another listens on the port: %v, want %q in it", err, want)
	}
	_ = taken.Close()

	stale := idle(t, etcdMark(c.cfg.StateDir)) // as if a guard had been killed too
	c = start(t, cfg)
	assertKilled(t, stale)
	if got := clusterUID(t, kubernetes.NewForConfigOrDie(admin)); got != uid { // the old credentials
		t.Errorf("after a stop and a start the cluster is %s, was %s", got, uid)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	assertGone(t, c)
}

func TestTemporaryClusterLeavesNothing(t *testing.T) {
	c := start(t, Config{AssetsDir: assets(t)})
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	assertGone(t, c)
	if _, err := os.Stat(c.cfg.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its state is still there: %v", err)
	}
}

// A test that panics or a demo that is killed can't clean up.
func TestNothingSurvivesAKilledProcess(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"=cluster", "TMPDIR="+dir, AssetsEnv+"="+assets(t))
	cmd.Stderr = os.Stderr
	r := playRole(t, cmd)
	states, err := filepath.Glob(filepath.Join(dir, "rollcall-controlplane-*"))
	if err != nil || len(states) != 1 {
		t.Fatalf("state directories %v, %v; want one", states, err)
	}
	marks := (&ControlPlane{cfg: Config{StateDir: states[0]}}).marks()
	if pids, err := find(t.Context(), marks...); err != nil || len(pids) != 3 {
		t.Fatalf("processes %v, %v; want 3", pids, err)
	}
	if err := r.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its processes and its state are gone", func(ctx context.Context) error {
		pids, err := find(ctx, marks...)
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("processes %v live", pids)
		}
		if _, statErr := os.Stat(states[0]); err == nil && statErr == nil {
			err = fmt.Errorf("%s exists", states[0])
		}
		return err
	})
}

// runCluster runs a temporary cluster until it is killed.
func runCluster() {
	if _, err := Start(context.Background(), Config{AssetsDir: os.Getenv(AssetsEnv)}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// A flag that the API server does not know: its own words must reach the person.
func TestStartErrorSaysWhy(t *testing.T) {
	logs := t.TempDir()
	_, err := Start(t.Context(), Config{AssetsDir: assets(t), LogDir: logs, APIServerFlags: map[string]string{"no-such-flag": "1"}})
	for _, want := range []string{"kube-apiserver did not start", "unknown flag: --no-such-flag", filepath.Join(logs, "kube-apiserver.log")} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
}

func testAggregation(t *testing.T, client kubernetes.Interface) {
	roles := client.RbacV1().ClusterRoles()
	part := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "part", Labels: map[string]string{"part-of": "whole"}},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}}},
	}
	whole := &rbacv1.ClusterRole{
		ObjectMeta:      metav1.ObjectMeta{Name: "whole"},
		AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: part.Labels}}},
	}
	for _, role := range []*rbacv1.ClusterRole{part, whole} {
		if _, err := roles.Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the aggregated role has the rule", func(ctx context.Context) error {
		got, err := roles.Get(ctx, "whole", metav1.GetOptions{})
		if err == nil && len(got.Rules) != 1 {
			err = fmt.Errorf("rules %v", got.Rules)
		}
		return err
	})
}

func testGarbageCollection(t *testing.T, client kubernetes.Interface) {
	configMaps := client.CoreV1().ConfigMaps("default")
	owner, err := configMaps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = configMaps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name:            "child",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := configMaps.Delete(t.Context(), "owner", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child follows its owner", func(ctx context.Context) error {
		_, err := configMaps.Get(ctx, "child", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it exists"))
	})
}

// testServiceAccount wants RBAC and nothing else to decide what an account may do.
func testServiceAccount(t *testing.T, c *ControlPlane, admin kubernetes.Interface) {
	cfg, err := ServiceAccountConfig(t.Context(), c.AdminConfig(), "default", "default")
	if err != nil {
		t.Fatal(err)
	}
	client := kubernetes.NewForConfigOrDie(cfg)
	_, err = client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if want := `User "system:serviceaccount:default:default" cannot list`; !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
		t.Fatalf("without a role: %v, want %q", err, want)
	}
	_, err = admin.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "viewer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "default"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "with role view it may list", func(ctx context.Context) error {
		_, err := client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
		return err
	})
}

func testPerson(t *testing.T, c *ControlPlane) {
	cfg, err := c.UserConfig("jane", "helpdesk")
	if err != nil {
		t.Fatal(err)
	}
	_, err = kubernetes.NewForConfigOrDie(cfg).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "jane" cannot list`) {
		t.Errorf("a person without a role: %v", err)
	}
}

func testKubectl(t *testing.T, c *ControlPlane) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := WriteKubeconfig(path, "rollcall", "kube-public", c.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; it holds a key", info.Mode(), err)
	}
	out, err := exec.CommandContext(t.Context(), c.Kubectl(), "--kubeconfig", path, "get", "serviceaccount,configmap", "-o", "name").CombinedOutput()
	if want := "serviceaccount/default\nconfigmap/kube-root-ca.crt\n"; err != nil || string(out) != want {
		t.Errorf("kubectl said %q, %v; want %q", out, err, want)
	}
}

func testAudit(t *testing.T, c *ControlPlane, client kubernetes.Interface) {
	eventually(t, "the log has who wrote what", func(context.Context) error {
		var wrote, collected, denied, noise bool
		for _, e := range auditEvents(t, c.AuditLog()) {
			ref := e.ObjectRef
			if ref == nil {
				noise = noise || strings.HasPrefix(e.RequestURI, "/healthz")
				continue
			}
			switch is := func(user, verb, resource string) bool {
				return e.User.Username == user && e.Verb == verb && ref.Resource == resource
			}; {
			case is("admin", "create", "configmaps") && ref.Name == "owner":
				wrote = e.ResponseStatus.Code == 201
			case is("system:serviceaccount:kube-system:generic-garbage-collector", "delete", "configmaps"):
				collected = collected || ref.Name == "child"
			case is("jane", "list", "secrets"):
				denied = e.ResponseStatus.Code == 403
			case e.User.Username == "system:apiserver" && e.Verb == "list":
				noise = true
			}
		}
		if !wrote || !collected || !denied || noise {
			return fmt.Errorf("the administrator's write: %t; the collector's deletion: %t; a person's refused read: %t; noise: %t",
				wrote, collected, denied, noise)
		}
		return nil
	})
}

func auditEvents(t *testing.T, path string) []auditv1.Event {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var events []auditv1.Event
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		events = append(events, e)
	}
	return events
}

func assets(t *testing.T) string {
	t.Helper()
	dir, err := Ensure(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, cfg Config) *ControlPlane {
	t.Helper()
	began := time.Now()
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("up in %s", time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func clusterUID(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	ns, err := client.CoreV1().Namespaces().Get(t.Context(), "kube-system", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return string(ns.UID)
}

func assertGone(t *testing.T, c *ControlPlane) {
	t.Helper()
	if pids, err := find(t.Context(), c.marks()...); err != nil || len(pids) != 0 {
		t.Errorf("after Stop processes %v live (%v)", pids, err)
	}
	for _, port := range []int{c.ports.APIServer, c.ports.Etcd} {
		if !listenable(port) {
			t.Errorf("after Stop something listens on port %d", port)
		}
	}
}

func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		last = check(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Errorf("%s: not within a minute: %v", what, last)
	}
}
