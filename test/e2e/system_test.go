// Package e2e runs the shipped programs against a real control plane, as they run for users: each under its own service account, people
// with the shipped roles, and asks what a user would see.
package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/test/audit"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// system is a control plane of its own with a manager and a gateway, all timers scaled together.
type system struct {
	local.System
	api              *harness.API
	manager, gateway *local.Process
}

// Timers of a scaled system: what is minutes in the field is seconds here.
var scaledManager = []string{
	"--beacon-interval=1s", "--gateway-lease-duration=3s", "--gateway-grace=3s", "--count-interval=1s", "--csr-retention=1s",
	"--leader-lease-duration=3s", "--leader-renew-deadline=2s", "--leader-retry-period=200ms",
}

var scaledGateway = []string{
	"--lease-duration=3s", "--lease-renew=1s",
	"--enroll-rate-source=1000", "--enroll-rate-token=1000", "--enroll-rate-total=1000", "--renew-spacing=10ms",
}

// startSystem starts one for t and stops it afterwards.
func startSystem(t testing.TB, managerArgs, gatewayArgs []string) *system {
	t.Helper()
	dir := t.TempDir()
	api, err := harness.Start(t.Context(), filepath.Join(dir, "cluster"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.ControlPlane.Stop() })
	s := &system{api: api, System: local.System{
		Admin: api.Admin, Bin: harness.Bin(t), Dir: filepath.Join(dir, "system"), LogDir: filepath.Join(dir, "log"), GatewayAddress: freeAddress(t),
		ManagerArgs: append(append([]string{}, scaledManager...), managerArgs...),
		GatewayArgs: append(append([]string{}, scaledGateway...), gatewayArgs...),
	}}
	t.Cleanup(func() { nobodyElseWrote(t, s) })
	s.startManager(t)
	s.startGateway(t)
	t.Cleanup(func() {
		s.gateway.Stop(5 * time.Second)
		s.manager.Stop(5 * time.Second)
		if t.Failed() {
			t.Logf("manager's last words:\n%s", local.Tail(s.manager.Log, 30))
			t.Logf("gateway's last words:\n%s", local.Tail(s.gateway.Log, 30))
		}
	})
	return s
}

// nobodyElseWrote asks the audit log of the whole run: each write to our kinds was by whom it is for.
func nobodyElseWrote(t testing.TB, s *system) {
	t.Helper()
	writes, violations, err := audit.Judge(s.api.AuditLog)
	if err != nil {
		t.Error(err)
	}
	for _, v := range violations {
		t.Errorf("audit: %s", v)
	}
	t.Logf("audit: writes to our kinds: %v", writes)
}

func (s *system) startManager(t testing.TB) {
	t.Helper()
	var err error
	if s.manager, err = s.StartManager(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *system) startGateway(t testing.TB) {
	t.Helper()
	var err error
	if s.gateway, err = s.StartGateway(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	address, err := local.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// tenant is a namespace with a person of a platform team in it.
type tenant struct {
	harness.Person
	sys *system
	ns  string
}

// tenant makes one; its person may read the Secrets of the tokens that are named.
func (s *system) tenant(t testing.TB, tokens ...string) *tenant {
	t.Helper()
	var secrets []string
	for _, name := range tokens {
		secrets = append(secrets, name+"-token")
	}
	ns := s.api.Namespace(t)
	return &tenant{sys: s, ns: ns, Person: s.api.Person(t, ns, secrets...)}
}

// token applies an EnrollmentToken as the person and returns what its Secret has.
func (n *tenant) token(t testing.TB, name, spec string) identity.Token {
	t.Helper()
	token, err := identity.ParseToken(n.tokenText(t, name, spec))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (n *tenant) tokenText(t testing.TB, name, spec string) string {
	t.Helper()
	n.Apply(t, fmt.Sprintf("apiVersion: rollcall.dev/v1alpha1\nkind: EnrollmentToken\nmetadata: {name: %s}\nspec: %s\n", name, spec))
	var text string
	harness.Eventually(t, 10*time.Second, func() error {
		out, err := n.Try(t, "", "get", "secret", name+"-token", "-o", "jsonpath={.data.token}")
		if err != nil {
			return err
		}
		b, err := base64.StdEncoding.DecodeString(out)
		text = string(b)
		return err
	})
	return text
}

// get reads an object as the person.
func get[T any](t testing.TB, n *tenant, resource, name string) T {
	t.Helper()
	var into T
	if err := json.Unmarshal([]byte(n.Kubectl(t, "get", resource, name, "-o", "json")), &into); err != nil {
		t.Fatal(err)
	}
	return into
}

// list reads all objects of a kind as the person.
func list[T any](t testing.TB, n *tenant, resource string) []T {
	t.Helper()
	var into struct {
		Items []T `json:"items"`
	}
	if err := json.Unmarshal([]byte(n.Kubectl(t, "get", resource, "-o", "json")), &into); err != nil {
		t.Fatal(err)
	}
	return into.Items
}

func (n *tenant) endpoints(t testing.TB) []v1alpha1.Endpoint {
	t.Helper()
	return list[v1alpha1.Endpoint](t, n, "fep")
}

// endpointIs waits until the person sees the endpoint in a state of one word.
func (n *tenant) endpointIs(t testing.TB, name, summary string, patience time.Duration) {
	t.Helper()
	harness.Eventually(t, patience, func() error {
		out, err := n.Try(t, "", "get", "fep", name, "-o", "jsonpath={.status.summary}")
		if err == nil && out != summary {
			err = fmt.Errorf("endpoint %s is %q, not %q", name, out, summary)
		}
		return err
	})
}

func uses(t testing.TB, n *tenant, token string) int32 {
	t.Helper()
	ept := get[v1alpha1.EnrollmentToken](t, n, "ept", token)
	if ept.Status.Uses == nil {
		return 0
	}
	return *ept.Status.Uses
}

// wait polls quietly, for things that a test awaits without asserting them.
func wait(ctx context.Context, patience time.Duration, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }
