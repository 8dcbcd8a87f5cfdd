package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/test/harness"
)

const (
	fleetSize     = 50
	fleetInterval = 2 * time.Second
	fleetMissed   = 5
)

// offlineAfter is the silence at which these endpoints are offline; every absence in this test is longer, and than any grace.
var offlineAfter = liveness.OfflineAt(time.Time{}, fleetInterval, fleetMissed).Sub(time.Time{})

// TestFleet runs fifty agents without websockets, of which nothing is known but their heartbeats, and breaks what can break around them. Nobody may look offline who is not, and who stops must.
func TestFleet(t *testing.T) {
	t.Parallel()
	s := startSystem(t, nil, nil)
	n := s.tenant(t, "fleet")
	n.Apply(t, fmt.Sprintf(`{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: %d, missed: %d}}}`,
		int(fleetInterval.Seconds()), fleetMissed))
	sim := startFleetsim(t, s, "fleetsim", fleetToken(t, n), fleetSize, "--websocket=false")

	harness.Eventually(t, 60*time.Second, func() error {
		online := n.counted(t, isOnline)
		if online != fleetSize {
			return fmt.Errorf("%d of %d are online", online, fleetSize)
		}
		return nil
	})
	t.Logf("kubectl get fep:\n%s", strings.Join(lines(n.Kubectl(t, "get", "fep"))[:6], "\n"))

	t.Run("the policy counts them", func(t *testing.T) {
		harness.Eventually(t, 15*time.Second, func() error {
			p := get[v1alpha1.EndpointPolicy](t, n, "fast")
			if p.Status.Endpoints == nil || *p.Status.Endpoints != fleetSize || *p.Status.Online != fleetSize || *p.Status.Drifted != 0 {
				return errNot{n.Kubectl(t, "get", "epp"), "counted"}
			}
			return nil
		})
		t.Logf("kubectl get epp:\n%s", n.Kubectl(t, "get", "epp"))
	})
	t.Run("an endpoint takes 3 KB at most", func(t *testing.T) { endpointSize(t, n) })

	w := watchFleet(t, n, fleetSize)
	t.Run("kill -9 of the gateway shows nobody offline", func(t *testing.T) {
		s.gateway.Kill()
		// away for longer than an offline deadline, so that only knowing better keeps them online
		wait(t.Context(), offlineAfter+4*time.Second, func() bool { return false })
		s.startGateway(t)
		beatsAgain(t, n)
		w.nobodyOffline(t)
	})
	t.Run("an API server away for longer than every grace shows nobody offline", func(t *testing.T) {
		if err := s.api.ControlPlane.StopAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		wait(t.Context(), offlineAfter+4*time.Second, func() bool { return false })
		if err := s.api.ControlPlane.StartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		// A leader that cannot renew its Lease ends. A kubelet starts it again, and it knows nothing of what was before.
		<-s.manager.Done()
		s.startManager(t)
		beatsAgain(t, n)
		wait(t.Context(), offlineAfter, func() bool { return false }) // the deadlines of before pass under the new leader
		w.nobodyOffline(t)
	})
	t.Run("who stops is offline at the computed deadline", func(t *testing.T) {
		before := time.Now()
		sim.Kill()
		offlineAtDeadline(t, n, w, before)
	})
}

func startFleetsim(t testing.TB, s *system, name, tokenFile string, count int, args ...string) *local.Process {
	t.Helper()
	p, err := local.Start(name, filepath.Join(s.LogDir, name+".log"), filepath.Join(s.Bin, "fleetsim"), append([]string{
		"--server=https://" + s.GatewayAddress, "--token-file=" + tokenFile, fmt.Sprintf("--count=%d", count), "--state-dir=" + filepath.Join(s.Dir, name),
	}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(10 * time.Second) })
	return p
}

// endpointSize measures Endpoints as etcd has them: custom resources are stored as the JSON that the API server serves.
func endpointSize(t *testing.T, n *tenant) {
	largest := 0
	for _, e := range n.endpoints(t) {
		raw := n.Kubectl(t, "get", "--raw", "/apis/rollcall.dev/v1alpha1/namespaces/"+n.ns+"/endpoints/"+e.Name)
		largest = max(largest, len(raw))
	}
	t.Logf("the largest of %d Endpoints has %d bytes", fleetSize, largest)
	if largest > 3<<10 {
		t.Errorf("the largest Endpoint has %d bytes, the bound is %d", largest, 3<<10)
	}
}

// beatsAgain waits until every endpoint was seen anew.
func beatsAgain(t *testing.T, n *tenant) {
	t.Helper()
	since := time.Now()
	harness.Eventually(t, 30*time.Second, func() error {
		for _, e := range n.endpoints(t) {
			if e.Status.LastSeenTime == nil || e.Status.LastSeenTime.Time.Before(since.Truncate(time.Second)) {
				return errNot{e.Name, "seen again"}
			}
		}
		return nil
	})
}

// fleetWatch remembers every state that a watch on all Endpoints of a namespace has shown, across an API server's absence.
type fleetWatch struct {
	size   int // how many endpoints there are
	mu     sync.Mutex
	states map[string]map[string]time.Time // endpoint, summary, first seen
	events int
}

func watchFleet(t testing.TB, n *tenant, size int) *fleetWatch {
	w := &fleetWatch{size: size, states: map[string]map[string]time.Time{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			w.once(ctx, n)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

// once lists and watches until the API server hangs up.
func (w *fleetWatch) once(ctx context.Context, n *tenant) {
	follow(ctx, n, "fep", "{.metadata.name} {.status.summary}", func(line string) {
		name, summary, _ := strings.Cut(line, " ")
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events++
		if w.states[name] == nil {
			w.states[name] = map[string]time.Time{}
		}
		if _, seen := w.states[name][summary]; !seen {
			w.states[name][summary] = time.Now()
		}
	})
}

// follow lists and watches all objects of a kind in a namespace with kubectl until the API server hangs up, and calls f with what columns make of each.
func follow(ctx context.Context, n *tenant, resource, columns string, f func(line string)) {
	cmd := exec.CommandContext(ctx, n.sys.api.KubectlPath, "--kubeconfig", n.Kubeconfig, "get", resource, "--watch", "-o", "jsonpath="+columns+`{"\n"}`)
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return
	}
	for r := bufio.NewScanner(out); r.Scan(); {
		f(r.Text())
	}
	_ = cmd.Wait() // it was told to stop, or the API server has
}

func (w *fleetWatch) nobodyOffline(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.states) < w.size {
		t.Errorf("the watch has seen %d endpoints of %d", len(w.states), w.size)
	}
	unknown := 0
	for name, states := range w.states {
		for state, at := range states {
			switch state {
			case "", "Online":
			case "Unknown": // without any gateway for longer than the grace nothing is known, and it says so
				unknown++
			default:
				t.Errorf("%s was shown %s at %s", name, state, at.Format(time.TimeOnly))
			}
		}
	}
	t.Logf("%d watch events of %d endpoints; %d were Unknown for a while, nobody Offline", w.events, len(w.states), unknown)
}

// offlineAtDeadline: every endpoint turns Offline no earlier than its own deadline, and within seconds after.
func offlineAtDeadline(t *testing.T, n *tenant, w *fleetWatch, stopped time.Time) {
	deadlines := map[string]time.Time{}
	for _, e := range n.endpoints(t) {
		deadlines[e.Name] = liveness.OfflineAt(e.Status.LastSeenTime.Time, fleetInterval, fleetMissed)
	}
	harness.Eventually(t, 40*time.Second, func() error {
		if online := n.counted(t, isOnline); online > 0 {
			return fmt.Errorf("%d are still online; the first:\n%s", online, n.Kubectl(t, "get", "fep", "-o", "jsonpath={.items[0].status}"))
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, deadline := range deadlines {
		at, seen := w.states[name]["Offline"]
		if !seen {
			t.Errorf("the watch has not shown %s Offline", name)
			continue
		}
		// times in the API have whole seconds; the gateway may have refreshed once more what was read above
		if at.Before(deadline.Add(-time.Second)) || at.After(deadline.Add(5*time.Second)) {
			t.Errorf("%s was shown Offline at %s, its deadline was %s", name, at.Format(time.StampMilli), deadline.Format(time.StampMilli))
		}
	}
	t.Logf("all offline within %.1fs of the kill; message: %s", time.Since(stopped).Seconds(),
		n.Kubectl(t, "get", "fep", "-o", "jsonpath={.items[0].status.message}"))
}
