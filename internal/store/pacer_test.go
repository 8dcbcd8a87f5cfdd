package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// double is an API server for the pacer's arithmetic: it applies patches for real, counts, and fails when told to. Tests against the real one
// are in store_test.go.
type double struct {
	t       *testing.T
	latency time.Duration

	mu      sync.Mutex
	objects map[string]*v1alpha1.Endpoint // by UID
	version int
	// fail, where set, is asked before each patch.
	fail   func(uid string) error
	writes []written
	flying map[string]bool
	gets   int
	// history is every version that was stored.
	history []*v1alpha1.Endpoint
	onStore func(*v1alpha1.Endpoint)
}

type written struct {
	at  time.Time
	uid string
}

var endpointsOf = schema.GroupResource{Group: "rollcall.dev", Resource: "endpoints"}

func unprocessable(why string) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "patch", endpointsOf, "", why, 0, true)
}

func away() error { return errors.New("connection refused") }

func (d *double) wait(ctx context.Context) error {
	t := time.NewTimer(d.latency)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *double) PatchStatus(ctx context.Context, at Ref, patch []byte) (*v1alpha1.Endpoint, error) {
	d.mu.Lock()
	if d.flying != nil { // one pacer writes here
		if d.flying[at.UID] {
			d.t.Errorf("two writes of %s at once", at.Name)
		}
		d.flying[at.UID] = true
	}
	d.mu.Unlock()
	err := d.wait(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.flying, at.UID)
	if err == nil && d.fail != nil {
		err = d.fail(at.UID)
	}
	if err != nil {
		return nil, err
	}
	stored := d.objects[at.UID]
	if stored == nil {
		return nil, apierrors.NewNotFound(endpointsOf, at.Name)
	}
	next := stored.DeepCopy()
	if err := apply(d.t, next, patch); err != nil {
		return nil, unprocessable(err.Error())
	}
	d.writes = append(d.writes, written{time.Now(), at.UID})
	return d.store(next), nil
}

func (d *double) Get(ctx context.Context, at Ref) (*v1alpha1.Endpoint, error) {
	if err := d.wait(ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gets++
	if e := d.objects[at.UID]; e != nil {
		return e.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(endpointsOf, at.Name)
}

func (d *double) store(e *v1alpha1.Endpoint) *v1alpha1.Endpoint {
	d.version++
	e.ResourceVersion = strconv.Itoa(1000 + d.version)
	d.objects[string(e.UID)] = e
	d.history = append(d.history, e.DeepCopy())
	if d.onStore != nil {
		d.onStore(e)
	}
	return e.DeepCopy()
}

// other writes as another replica or the manager would; the pacer's records do not know yet.
func (d *double) other(uid string, change func(*v1alpha1.Endpoint)) *v1alpha1.Endpoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.objects[uid].DeepCopy()
	change(e)
	return d.store(e)
}

func (d *double) stored(uid string) state {
	d.mu.Lock()
	defer d.mu.Unlock()
	return stateOf(d.objects[uid])
}

func (d *double) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.writes)
}

// bench is a pacer that runs over a double with machines 1 to n.
type bench struct {
	*pacer
	api *double
	end context.CancelFunc
	// ended closes when run has returned.
	ended chan struct{}
}

const drainTimeout = 5 * time.Second

func newBench(t *testing.T, n int, perSecond float64) *bench {
	t.Helper()
	d := &double{t: t, latency: 5 * time.Millisecond, objects: map[string]*v1alpha1.Endpoint{}, flying: map[string]bool{}}
	x := newEndpoints(testLog(t), func(string) {}, func(string) {})
	for i := range n {
		e := machine(t, i+1)
		x.event(d.store(e))
	}
	m := newMetrics()
	m.actions = newActions(func(string) {})
	b := &bench{pacer: newPacer(testLog(t), d, x, perSecond, m), api: d, ended: make(chan struct{})}
	m.pacer = b.pacer
	ctx, cancel := context.WithCancel(t.Context())
	b.end = cancel
	go func() {
		b.run(ctx, drainTimeout)
		close(b.ended)
	}()
	return b
}

// stop ends the pacer and waits for it.
func (b *bench) stop() {
	b.end()
	<-b.ended
}

func (b *bench) ref(n int) Ref { return b.endpoints.identity(uuidOf("identity", n)).endpoint().Ref }

func (b *bench) seen(n int, at time.Time) {
	b.write(Report{Ref: b.ref(n), Seen: at, Replaces: b.judged(n)})
}

// judged is the connection that a gateway sees.
func (b *bench) judged(n int) Connection {
	r := b.endpoints.identity(uuidOf("identity", n))
	c, _ := b.waiting(r.uid, r.id)
	return c.over(r.state()).connection
}

func (b *bench) restarted(n int, id string) {
	c := b.judged(n)
	c.Epoch, c.ID, c.InstanceTime = c.Epoch+1, instanceOf(id), now()
	b.write(Report{Ref: b.ref(n), Replaces: b.judged(n), Connection: &c, Seen: now()})
}

func (b *bench) waits() int {
	w, _ := b.depth()
	return w[laneSession] + w[laneFacts]
}

// now is a time on the bubble's clock, which begins in 2000, after all that machine says.
func now() time.Time { return time.Now().AddDate(30, 0, 0) }

// pass lets time go by on the bubble's clock.
func pass(d time.Duration) { <-time.After(d) }

func uidOf(n int) string { return uuidOf("object", n) }

func TestOnlyTheNewestStateIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, 10)
		b.api.latency = time.Second
		for i := range 50 { // the first is under way from here on
			b.restarted(1, fmt.Sprint("start ", i))
			b.write(Report{Ref: b.ref(1), Replaces: b.judged(1), Agent: &v1alpha1.EndpointAgent{Version: "8.0.0", RejectedOrders: int64(i)}})
			synctest.Wait()
		}
		pass(1500 * time.Millisecond)
		if _, oldest := b.depth(); time.Since(oldest) > time.Second {
			t.Errorf("what was reported within the first write counts as waiting for %s", time.Since(oldest))
		}
		b.stop()
		if n := b.api.count(); n != 2 {
			t.Errorf("%d writes for 50 restarts within the first write, want 2", n)
		}
		got := b.api.stored(uidOf(1))
		if got.connection.ID != instanceOf("start 49") || got.agent != DigestOf(&v1alpha1.EndpointAgent{Version: "8.0.0", RejectedOrders: 49}) {
			t.Errorf("stored is %+v", got)
		}
	})
}

func TestWhatIsThereIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, 10)
		e := machine(t, 1)
		c := connectionOf(e.Status.Connection)
		b.write(Report{
			Ref: b.ref(1), Seen: e.Status.LastSeenTime.Time, Replaces: c, Connection: &c, Agent: e.Status.Agent, Inventory: e.Status.Inventory,
		})
		synctest.Wait()
		if b.waits() != 0 {
			t.Error("it waits for nothing")
		}
		b.stop()
		if n := b.api.count(); n != 0 {
			t.Errorf("%d writes of what is there already", n)
		}
	})
}

// A storm is flattened to the rate, however it is spread over the endpoints, and none is forgotten.
func TestWritesKeepToTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const fleet, rate = 300, 20
		b := newBench(t, fleet, rate)
		began := time.Now()
		for n := range fleet {
			b.restarted(n+1, "again")
		}
		if w := b.waits(); w != fleet {
			t.Errorf("%d wait, want %d", w, fleet)
		}
		pass((fleet/rate - 2) * time.Second)
		if w, oldest := b.depth(); w[laneSession] == 0 || !oldest.Equal(began) {
			t.Errorf("%v wait, the oldest since %s", w, oldest)
		}
		pass(5 * time.Second)
		if b.api.count() != fleet || b.waits() != 0 {
			t.Errorf("%d of %d written, %d wait", b.api.count(), fleet, b.waits())
		}
		positions := map[string]int{}
		for i, w := range b.api.writes {
			positions[w.uid] = i + 1
			// a second's worth may come at once
			if i >= 3*rate && w.at.Sub(b.api.writes[i-3*rate].at) < 1900*time.Millisecond {
				t.Fatalf("%d writes within %s", 3*rate, w.at.Sub(b.api.writes[i-3*rate].at))
			}
		}
		for n := 1; n <= fleet; n++ {
			if at := positions[uidOf(n)]; at < n-maxFlights || at > n+maxFlights {
				t.Errorf("machine %d was written as number %d", n, at)
			}
		}
		b.stop()
	})
}

// Who is connected goes first, but not so that the rest never comes.
func TestSessionsGoBeforeFacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 200, 10)
		b.api.fail = func(string) error { return nil }
		for n := range 100 {
			b.seen(n+1, now())
		}
		for n := range 100 {
			b.restarted(n+101, "again")
		}
		pass(50 * time.Millisecond) // a second's worth was written at once
		before, _ := b.depth()
		pass(9500 * time.Millisecond)
		w, _ := b.depth()
		if written := before[laneFacts] - w[laneFacts]; written < 8 || written > 20 {
			t.Errorf("%d of the facts were written while sessions waited; one turn in %d is theirs", written, factsTurn)
		}
		if w[laneSession] > 30 {
			t.Errorf("%d of 100 sessions still wait", w[laneSession])
		}
		b.stop()
	})
}

// While the API server is away nothing is lost, it is left in peace, and afterwards the newest of each is written once.
func TestNothingIsLostWhileTheAPIServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 50, 100)
		gone := true
		tries := 0
		b.api.fail = func(string) error {
			if !gone {
				return nil
			}
			tries++
			return away()
		}
		for round := range 20 {
			for n := range 50 {
				b.restarted(n+1, fmt.Sprint("start ", round))
			}
			pass(15 * time.Second)
		}
		if w := b.waits(); w != 50 {
			t.Errorf("%d wait for 50 endpoints", w)
		}
		if tries > 2400 { // 16 at a time, every 2 s at the most
			t.Errorf("%d tries in five minutes", tries)
		}
		for n := range 50 {
			if b.judged(n+1).ID != instanceOf("start 19") {
				t.Error("a lookup does not show what waits")
			}
		}
		b.api.mu.Lock()
		gone = false
		b.api.mu.Unlock()
		pass(4 * time.Second) // an endpoint's silence counts again soon after the Lease is renewed, which is tried every second
		if n := b.api.count(); n != 50 || b.waits() != 0 {
			t.Errorf("%d writes for 50 endpoints within 4s, %d wait", n, b.waits())
		}
		for n := range 50 {
			if got := b.api.stored(uidOf(n + 1)); got.connection.ID != instanceOf("start 19") {
				t.Fatalf("stored is %+v", got)
			}
		}
		b.stop()
	})
}

func TestTheAPIServersWishIsHeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, 100)
		began := time.Now()
		var tries []time.Duration
		b.api.fail = func(string) error {
			tries = append(tries, time.Since(began))
			if len(tries) == 1 {
				return apierrors.NewTooManyRequests("slower", 30)
			}
			return nil
		}
		b.seen(1, now())
		pass(time.Second)
		b.seen(2, now())
		pass(time.Minute)
		b.stop()
		if len(tries) != 3 || tries[1] < 30*time.Second {
			t.Errorf("tried after %s", tries)
		}
	})
}

func TestAnotherWriterIsHeeded(t *testing.T) {
	for name, tc := range map[string]struct {
		other func(*v1alpha1.Endpoint)
		want  string // instance that is stored in the end
	}{
		"a newer start through another replica": {func(e *v1alpha1.Endpoint) {
			e.Status.Connection.Epoch, e.Status.Connection.InstanceID = 99, instanceOf("newer")
		}, instanceOf("newer")},
		"an older start through another replica": {func(e *v1alpha1.Endpoint) {
			e.Status.Connection.InstanceID, e.Status.Connection.SessionNumber = instanceOf("older"), 1
		}, instanceOf("mine")},
		"a conflict":  {func(e *v1alpha1.Endpoint) { e.Status.Connection.ConflictInstanceID = instanceOf("clone") }, instanceOf(1, 12)}, // judged anew at the next heartbeat
		"the manager": {func(e *v1alpha1.Endpoint) { e.Status.Connection.Channel = v1alpha1.ChannelNone }, instanceOf("mine")},
		"another replica, with the same": {func(e *v1alpha1.Endpoint) {
			c := conn(13, "mine", 3)
			c.InstanceTime, c.Since, c.PreviousInstance, c.RemoteAddress = wholeSeconds(now()), enrolled.Add(490*time.Hour), instanceOf(1, 11), "10.1.0.1"
			e.Status.Connection, e.Status.LastSeenTime = c.resource(), &metav1.Time{Time: now().Add(time.Hour)}
		}, instanceOf("mine")},
		"enrolled again": {func(e *v1alpha1.Endpoint) {
			e.Status.Identity.ID = uuidOf("again")
			e.Status.Connection, e.Status.Agent, e.Status.LastSeenTime = nil, nil, nil
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, 1, 10)
				b.restarted(1, "mine")
				b.api.other(uidOf(1), tc.other) // while the write is under way; no watch tells of it
				b.stop()
				if got := b.api.stored(uidOf(1)).connection; got.ID != tc.want {
					t.Errorf("stored is %+v, want instance %s", got, tc.want)
				}
				if b.waits() != 0 {
					t.Error("something still waits")
				}
				if r := b.endpoints.uid(uuid.MustParse(uidOf(1))); r.connection() != b.api.stored(uidOf(1)).connection {
					t.Error("what was found is not taken over")
				}
				if refused := testutil.ToFloat64(b.metrics.writes.WithLabelValues(blockConnection, resultRefused)); refused != 0 {
					t.Error("it was taken for content that the API server refuses")
				}
			})
		})
	}
}

func TestADeletedEndpointIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, 10)
		b.seen(1, now())
		b.api.mu.Lock()
		delete(b.api.objects, uidOf(1)) // the watch does not know yet
		b.api.mu.Unlock()
		pass(time.Second)
		ref := b.ref(2)
		b.endpoints.drop(machine(t, 2)) // the watch knows
		b.write(Report{Ref: ref, Seen: now()})
		pass(time.Second)
		if b.waits() != 0 || b.api.count() != 0 {
			t.Errorf("%d wait, %d were written", b.waits(), b.api.count())
		}
		b.stop()
	})
}

// What the API server never takes is not tried for ever, keeps nobody else waiting, and does not make a machine look dead.
func TestRefusedContentIsDroppedAndTheRestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, 10)
		patches := 0
		b.api.fail = func(uid string) error {
			if uid != uidOf(1) {
				return nil
			}
			if patches++; patches <= 1 {
				return unprocessable("status.inventory.hostname: Too long")
			}
			return nil
		}
		at := now()
		b.write(Report{Ref: b.ref(1), Seen: at, Replaces: b.judged(1), Inventory: &v1alpha1.EndpointInventory{Hostname: "too long"}})
		b.seen(2, at)
		pass(time.Second)
		for n := range 2 {
			if got := b.api.stored(uidOf(n + 1)).seen; !got.Equal(wholeSeconds(at)) {
				t.Errorf("machine %d was seen at %s, stored is %s", n+1, at, got)
			}
		}
		if got := b.api.stored(uidOf(1)).inventory; got != DigestOf(machine(t, 1).Status.Inventory) {
			t.Error("the refused inventory was stored")
		}
		if b.waits() != 0 || patches != 2 {
			t.Errorf("%d wait after %d tries", b.waits(), patches)
		}
		b.api.fail = func(string) error { return unprocessable("never") }
		b.restarted(1, "refused")
		pass(time.Second)
		if b.waits() != 0 {
			t.Error("what is always refused is tried for ever")
		}
		if got := testutil.ToFloat64(b.metrics.writes.WithLabelValues(blockInventory, resultRefused)); got != 1 {
			t.Errorf("metric of refused inventories: %v", got)
		}
		b.stop()
	})
}

func TestTheEndIsBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		fail    error
		fleet   int
		written int
		within  time.Duration
	}{
		"all is written":              {nil, 100, 100, 2 * time.Second},
		"more than there is time for": {nil, 3000, -1, drainTimeout + time.Second},
		"the API server is away":      {away(), 100, 0, drainTimeout + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, tc.fleet, 100)
				b.api.fail = func(string) error { return tc.fail }
				for n := range tc.fleet {
					b.restarted(n+1, "last")
				}
				began := time.Now()
				b.stop()
				if took := time.Since(began); took > tc.within {
					t.Errorf("took %s, want %s at most", took, tc.within)
				}
				if n := b.api.count(); tc.written >= 0 && n != tc.written {
					t.Errorf("%d were written, want %d", n, tc.written)
				}
				b.write(Report{Ref: b.ref(1), Seen: now().Add(time.Hour)})
				if n := b.waits(); tc.fail == nil && tc.written > 0 && n != 0 {
					t.Errorf("%d wait after the end", n)
				}
			})
		})
	}
}

// Whatever happens in whatever order: never two writes of one endpoint at once (the double looks), no more than the rate, and once it is quiet
// the API server holds the newest of what was reported, unless another replica's is newer.
func TestPacerInAnyWeather(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { weather(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func weather(t *testing.T, r *rand.Rand) {
	const fleet, rate = 12, 5
	b := newBench(t, fleet, rate)
	b.api.latency = time.Duration(r.IntN(300)) * time.Millisecond
	var dice sync.Mutex
	calm := false
	b.api.fail = func(string) error {
		dice.Lock()
		defer dice.Unlock()
		switch n := r.IntN(20); {
		case calm || n > 4:
			return nil
		case n == 0:
			return apierrors.NewTooManyRequests("slower", 1)
		case n == 1:
			return apierrors.NewConflict(endpointsOf, "", errors.New("changed"))
		case n == 2:
			return apierrors.NewInternalError(errors.New("etcd"))
		default:
			return away()
		}
	}
	intn := func(n int) int { dice.Lock(); defer dice.Unlock(); return r.IntN(n) }
	newest := map[int]Report{}    // of our agents
	overtaken := map[int]string{} // by a start that another replica saw
	for step := range 300 {
		n := 1 + intn(fleet)
		if overtaken[n] != "" {
			continue
		}
		switch intn(10) {
		case 0, 1, 2, 3:
			c := b.judged(n)
			rep := Report{Ref: b.ref(n), Seen: now(), Replaces: c}
			c.Epoch, c.ID, c.InstanceTime = c.Epoch+1, instanceOf(step), now()
			rep.Connection = &c
			b.write(rep)
			newest[n] = rep
		case 4, 5:
			b.seen(n, now())
		case 6:
			e := b.api.other(uidOf(n), func(e *v1alpha1.Endpoint) { e.Status.Summary = fmt.Sprint(step) }) // the manager
			if intn(2) == 0 {
				b.endpoints.event(e)
			}
		case 7:
			if step > 200 {
				id := instanceOf("other", step)
				e := b.api.other(uidOf(n), func(e *v1alpha1.Endpoint) {
					e.Status.Connection.Epoch, e.Status.Connection.InstanceID = 1000, id
					e.Status.LastSeenTime = &metav1.Time{Time: now().Add(time.Hour)}
				})
				overtaken[n] = id
				if intn(2) == 0 {
					b.endpoints.event(e)
				}
			}
		}
		pass(time.Duration(intn(400)) * time.Millisecond)
	}
	dice.Lock()
	calm = true
	dice.Unlock()
	pass(time.Minute)
	if w := b.waits(); w != 0 {
		t.Errorf("%d still wait", w)
	}
	for n := range newest {
		got := b.api.stored(uidOf(n)).connection.ID
		if overtaken[n] != "" && got != overtaken[n] {
			t.Errorf("machine %d: an older start was written over another replica's", n)
		}
		if overtaken[n] == "" && got != newest[n].Connection.ID {
			t.Errorf("machine %d: the newest start is not stored", n)
		}
	}
	const some = 3 * rate // of which one second's worth may come at once
	for i, w := range b.api.writes {
		if i < some {
			continue
		}
		if took, least := w.at.Sub(b.api.writes[i-some].at), time.Second*(some-rate)/rate-b.api.latency; took < least {
			t.Errorf("%d writes within %s, want at least %s for them", some, took, least)
		}
	}
	b.stop()
}

func TestTheLogTellsOfAnOutageOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		outage time.Duration
		times  int
	}{"five minutes": {5 * time.Minute, 1}, "a hiccup": {time.Second, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, 1, 10)
				var log lines
				b.log = log.logger()
				began := time.Now()
				b.api.fail = func(string) error {
					if time.Since(began) < tc.outage {
						return away()
					}
					return nil
				}
				b.restarted(1, "again")
				pass(tc.outage + time.Minute)
				b.stop()
				for _, line := range []string{"Writing to the API server fails", "Writing to the API server works again"} {
					if n := strings.Count(log.String(), line); n != tc.times {
						t.Errorf("%q is logged %d times, want %d", line, n, tc.times)
					}
				}
			})
		})
	}
}

// Reports never wait for the API server.
func TestWriteNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, 1)
		b.api.latency = time.Hour
		began := time.Now()
		for range 1000 {
			b.restarted(1, "again")
		}
		if time.Since(began) != 0 {
			t.Error("it waited")
		}
		b.stop()
	})
}

func TestMetricsTellWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, 1)
		b.api.fail = func(string) error { return away() }
		b.restarted(1, "again")
		b.restarted(2, "again")
		b.seen(3, now())
		pass(90 * time.Second)
		got, err := collect(b.metrics)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]float64{
			"rollcall_gateway_pending_writes{sessions}": 2, "rollcall_gateway_pending_writes{facts}": 1,
			"rollcall_gateway_pending_writes_oldest_age_seconds{}": 90,
		}
		for name, v := range want {
			if got[name] != v {
				t.Errorf("%s is %v, want %v", name, got[name], v)
			}
		}
		b.stop()
	})
}

// collect is what a scrape gets, by name and label.
func collect(m *metrics) (map[string]float64, error) {
	r := prometheus.NewRegistry()
	if err := r.Register(m); err != nil {
		return nil, err
	}
	families, err := r.Gather()
	out := map[string]float64{}
	for _, f := range families {
		for _, one := range f.GetMetric() {
			label := ""
			for _, l := range one.GetLabel() {
				label += l.GetValue()
			}
			out[f.GetName()+"{"+label+"}"] = one.GetGauge().GetValue() + one.GetCounter().GetValue()
		}
	}
	return out, err
}
