package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// TestClones: what people do to machines' disks, each told apart, with orders held until a person decides.
func TestClones(t *testing.T) {
	t.Parallel()
	s := calmSystem(t)
	n := s.tenant(t, "laptops", "again")
	text := n.tokenText(t, "laptops", "{expiresAfterHours: 0}")
	n.Apply(t, sessionPolicy)

	t.Run("a cloned state directory", func(t *testing.T) {
		a, name := s.laptop(t, n, text)
		a.Stop(5 * time.Second)
		twin := a.copyOf(t)
		a.start(t)
		channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
		twin.start(t) // the same count of starts
		conflictIs(t, n, name, "Cloned")
		ordersAreHeld(t, n, name)
		acceptConnected(t, n, name)
		ordersFlow(t, n, name)
		twin.Stop(5 * time.Second)
	})
	t.Run("a restored snapshot", func(t *testing.T) {
		a, name := s.laptop(t, n, text)
		a.Stop(5 * time.Second)
		snapshot := a.copyOf(t)
		for range 2 { // starts that the snapshot knows nothing of
			a.start(t)
			channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
			a.Stop(5 * time.Second)
		}
		wait(t.Context(), 3*time.Second, func() bool { return false }) // longer than late packets are forgiven
		snapshot.start(t)
		conflictIs(t, n, name, "RolledBack")
		t.Run("enrolled again", func(t *testing.T) {
			snapshot.Stop(5 * time.Second)
			again := n.tokenText(t, "again", fmt.Sprintf("{expiresAfterHours: 1, maxUses: 1, endpointName: %s}", name))
			b := s.startAgent(t, "laptop", again, sessionAgent...)
			channelIs(t, n, b, name, v1alpha1.ChannelWebSocket, "", "connected")
			ordersFlow(t, n, name)
		})
	})
	t.Run("a deleted journal", func(t *testing.T) {
		a, name := s.laptop(t, n, text)
		a.Stop(5 * time.Second)
		if err := os.Remove(filepath.Join(a.dir, "state")); err != nil {
			t.Fatal(err)
		}
		a.start(t)
		conflictIs(t, n, name, "JournalLost")
		acceptConnected(t, n, name)
		channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
	})
}

// laptop enrols one more machine, and returns its agent and its Endpoint's name.
func (s *system) laptop(t testing.TB, n *tenant, token string) (*realAgent, string) {
	t.Helper()
	before := map[string]bool{}
	for _, e := range n.endpoints(t) {
		before[e.Name] = true
	}
	a := s.startAgent(t, "laptop", token, sessionAgent...)
	var name string
	harness.Eventually(t, 20*time.Second, func() error {
		for _, e := range n.endpoints(t) {
			if !before[e.Name] {
				name = e.Name
				return nil
			}
		}
		return errNot{"the new endpoint", "there"}
	})
	channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
	return a, name
}

// copyOf is an agent, not started, on a copy of this one's disk.
func (a *realAgent) copyOf(t testing.TB) *realAgent {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(a.dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	twin := &realAgent{bin: a.bin, dir: dir, program: a.program}
	for _, arg := range a.args {
		twin.args = append(twin.args, strings.ReplaceAll(arg, a.dir, dir))
	}
	t.Cleanup(func() {
		if twin.Process == nil {
			return
		}
		twin.Stop(5 * time.Second)
		if t.Failed() {
			t.Logf("the copy's last words:\n%s", local.Tail(twin.Log, 20))
		}
	})
	return twin
}

// conflictIs waits until people see a conflict, by its reason.
func conflictIs(t testing.TB, n *tenant, name, reason string) {
	t.Helper()
	harness.Eventually(t, 15*time.Second, func() error {
		st := get[v1alpha1.Endpoint](t, n, name).Status
		c := meta.FindStatusCondition(st.Conditions, v1alpha1.EndpointIdentityConflict)
		if st.Summary != "Conflict" || c == nil || c.Reason != reason {
			return fmt.Errorf("%s, %+v: wanted the conflict %s", st.Summary, c, reason)
		}
		return nil
	})
	c := meta.FindStatusCondition(get[v1alpha1.Endpoint](t, n, name).Status.Conditions, v1alpha1.EndpointIdentityConflict)
	t.Logf("%s%s: %s", n.Kubectl(t, "get", "fep", name), c.Reason, c.Message)
}

// changePolicy makes an order that every agent lacks, and returns its revision.
func changePolicy(t testing.TB, n *tenant) int64 {
	t.Helper()
	before := get[v1alpha1.EndpointPolicy](t, n, "fast").Status.Revision
	n.Kubectl(t, "patch", "epp", "fast", "--type=merge", "-p", fmt.Sprintf(`{"spec":{"heartbeat":{"reportIntervalSeconds":%d}}}`, 3600+before))
	var now int64
	harness.Eventually(t, 10*time.Second, func() error {
		if now = get[v1alpha1.EndpointPolicy](t, n, "fast").Status.Revision; now <= before {
			return errNot{"the policy", "signed anew"}
		}
		return nil
	})
	return now
}

func obeyed(t testing.TB, n *tenant, name string) int64 {
	t.Helper()
	if a := get[v1alpha1.Endpoint](t, n, name).Status.Agent; a != nil {
		return a.PolicyRevision
	}
	return 0
}

// ordersAreHeld: nobody of the two gets a new order, over a few heartbeats.
func ordersAreHeld(t testing.TB, n *tenant, name string) {
	t.Helper()
	revision := changePolicy(t, n)
	if wait(t.Context(), 5*time.Second, func() bool { return obeyed(t, n, name) >= revision }) {
		t.Errorf("%s got a new order while two machines are it", name)
	}
}

func ordersFlow(t testing.TB, n *tenant, name string) {
	t.Helper()
	revision := changePolicy(t, n)
	harness.Eventually(t, 15*time.Second, func() error {
		if now := obeyed(t, n, name); now < revision {
			return fmt.Errorf("it obeys revision %d, not %d", now, revision)
		}
		return nil
	})
	n.endpointIs(t, name, "Online", 10*time.Second)
}

// acceptConnected is what a person does who says that the connected machine is the true one.
func acceptConnected(t testing.TB, n *tenant, name string) {
	t.Helper()
	n.Kubectl(t, "annotate", "fep", name, "--overwrite", "rollcall.dev/accept-instance="+connection(t, n, name).InstanceID)
	n.endpointIs(t, name, "Online", 15*time.Second)
}
