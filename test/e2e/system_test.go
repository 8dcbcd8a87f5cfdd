// Package e2e runs the shipped programs against a real control plane, as they run for users: each under its own service account, people
// with the shipped roles, and asks what a user would see.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
	s, err := newSystem(t.Context(), t.TempDir(), harness.Bin(t), managerArgs, gatewayArgs)
	t.Cleanup(func() {
		s.logLastWords(t)
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// calm is the system of the tests that break none: it has the agents of all of them, in a namespace for each test, until the last has ended.
var calm struct {
	sync.Once
	*system
	dir string
	err error
}

func calmSystem(t testing.TB) *system {
	t.Helper()
	bin := harness.Bin(t)
	calm.Do(func() { startCalm(bin) })
	if calm.err != nil {
		t.Fatal(calm.err)
	}
	t.Cleanup(func() { calm.logLastWords(t) })
	return calm.system
}

// What the calm system has beside what sessions need: content is counted and checked often, and nothing is written but for a reason.
var (
	calmManager = append([]string{"--release-count-interval=1s", "--artifact-check-interval=8s"}, steadyManager...)
	calmGateway = append([]string{"--seen-refresh=24h"}, sessionGateway...)
)

func startCalm(bin string) {
	if calm.dir, calm.err = os.MkdirTemp("", "rollcall-e2e-"); calm.err == nil {
		calm.system, calm.err = newSystem(context.Background(), calm.dir, bin, calmManager, calmGateway)
	}
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := calm.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	_ = os.RemoveAll(calm.dir)
	os.Exit(code)
}

// newSystem starts one with its state in dir. Without an error or with one, it is to be stopped.
func newSystem(ctx context.Context, dir, bin string, managerArgs, gatewayArgs []string) (*system, error) {
	s, err := newControlPlane(ctx, dir, bin, managerArgs, gatewayArgs)
	if err != nil {
		return nil, err
	}
	if s.manager, err = s.StartManager(ctx); err != nil {
		return s, err
	}
	s.gateway, err = s.StartGateway(ctx)
	return s, err
}

// newControlPlane is a system whose manager and gateway do not run yet.
func newControlPlane(ctx context.Context, dir, bin string, managerArgs, gatewayArgs []string) (*system, error) {
	address, err := local.FreeAddress()
	if err != nil {
		return nil, err
	}
	api, err := harness.Start(ctx, filepath.Join(dir, "cluster"))
	if err != nil {
		return nil, err
	}
	return &system{api: api, System: local.System{
		Admin: api.Admin, Bin: bin, Dir: filepath.Join(dir, "system"), LogDir: filepath.Join(dir, "log"), GatewayAddress: address,
		ManagerArgs: append(append([]string{}, scaledManager...), managerArgs...),
		GatewayArgs: append(append([]string{}, scaledGateway...), gatewayArgs...),
	}}, nil
}

// stop ends a system. Its error says who has written what is not his to write, by the audit log of the whole run.
func (s *system) stop() error {
	if s == nil {
		return nil
	}
	for _, p := range []*local.Process{s.gateway, s.manager} {
		if p != nil {
			p.Stop(5 * time.Second)
		}
	}
	_, violations, err := audit.Judge(s.api.AuditLog)
	err = errors.Join(err, s.api.Stop())
	if err == nil && len(violations) > 0 {
		err = fmt.Errorf("audit: %v", violations)
	}
	return err
}

func (s *system) logLastWords(t testing.TB) {
	if s == nil || !t.Failed() {
		return
	}
	for _, p := range []*local.Process{s.manager, s.gateway} {
		if p != nil {
			t.Logf("the %s's last words:\n%s", p.Name, local.Tail(p.Log, 30))
		}
	}
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
		var secret corev1.Secret
		err := n.Client.Get(t.Context(), client.ObjectKey{Namespace: n.ns, Name: name + "-token"}, &secret)
		text = string(secret.Data["token"])
		return err
	})
	return text
}

// get reads an object as the person.
func get[T any, Object interface {
	*T
	client.Object
}](t testing.TB, n *tenant, name string,
) (into T) {
	t.Helper()
	if err := n.Client.Get(t.Context(), client.ObjectKey{Namespace: n.ns, Name: name}, Object(&into)); err != nil {
		t.Fatal(err)
	}
	return into
}

// list reads all objects of a kind as the person.
func list[L any, List interface {
	*L
	client.ObjectList
}](t testing.TB, n *tenant,
) (into L) {
	t.Helper()
	if err := n.Client.List(t.Context(), List(&into), client.InNamespace(n.ns)); err != nil {
		t.Fatal(err)
	}
	return into
}

func (n *tenant) endpoints(t testing.TB) []v1alpha1.Endpoint {
	t.Helper()
	return list[v1alpha1.EndpointList](t, n).Items
}

// counted are the endpoints of which something is so.
func (n *tenant) counted(t testing.TB, is func(v1alpha1.EndpointStatus) bool) (count int) {
	t.Helper()
	for _, e := range n.endpoints(t) {
		if is(e.Status) {
			count++
		}
	}
	return count
}

func isOnline(s v1alpha1.EndpointStatus) bool { return s.Summary == "Online" }

func hasSession(s v1alpha1.EndpointStatus) bool {
	return s.Connection != nil && s.Connection.Channel == v1alpha1.ChannelWebSocket
}

// endpointIs waits until the person sees the endpoint in a state of one word.
func (n *tenant) endpointIs(t testing.TB, name, summary string, patience time.Duration) {
	t.Helper()
	harness.Eventually(t, patience, func() error {
		var ep v1alpha1.Endpoint
		err := n.Client.Get(t.Context(), client.ObjectKey{Namespace: n.ns, Name: name}, &ep)
		if got := ep.Status.Summary; err == nil && got != summary {
			err = fmt.Errorf("endpoint %s is %q, not %q", name, got, summary)
		}
		return err
	})
}

func uses(t testing.TB, n *tenant, token string) int32 {
	t.Helper()
	ept := get[v1alpha1.EnrollmentToken](t, n, token)
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
