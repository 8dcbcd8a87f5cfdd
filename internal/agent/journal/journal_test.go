package journal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
)

const (
	me  = "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02"
	day = 24 * time.Hour
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

type desk struct {
	*Journal
	t       *testing.T
	path    string
	dir     *state.Dir
	fleet   *fleettest.Fleet
	changes int
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, path: t.TempDir(), fleet: fleettest.New(t, func() time.Time { return noon })}
	d.open()
	if err := d.dir.MakeJournal(); err != nil {
		t.Fatal(err)
	}
	return d
}

// open is another process on the directory.
func (d *desk) open() {
	d.t.Helper()
	if d.dir != nil {
		_ = d.dir.Close()
	}
	var err error
	if d.dir, err = state.Open(d.path, state.OnChange(func() { d.changes++ })); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = d.dir.Close() })
	if d.Journal, err = Load(d.dir, orders.ParseAction, noon); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) action(issued time.Duration, change func(*agentv1.Action)) *orders.Action {
	d.t.Helper()
	e, _ := d.fleet.Action(me, func(m *agentv1.Action) {
		m.IssuedAt = timestamppb.New(noon.Add(issued))
		if change != nil {
			change(m)
		}
	})
	a, err := orders.ParseAction(e)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

func (d *desk) good(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// received is an action that was.
func (d *desk) received(issued time.Duration, change func(*agentv1.Action)) *Entry {
	d.t.Helper()
	a := d.action(issued, change)
	d.good(d.Receive(a, noon))
	return d.Find(a.Order.GetActionUid())
}

// Each step is on the disk when it is said to be: another process finds what this one knows.
func TestStepsAreDurable(t *testing.T) {
	d := newDesk(t)
	uid := d.received(0, nil).UID
	result := []byte(`{"identityId":"` + me + `"}`)
	for _, c := range []struct {
		name  string
		do    func(*Entry) error
		check func(*Entry) bool
	}{
		{"received", func(*Entry) error { return nil }, func(e *Entry) bool { return e.State == Received && !e.Ended() }},
		{"started", func(e *Entry) error { return d.Start(e, noon.Add(1)) }, func(e *Entry) bool { return e.State == Started && e.StartedAt.Equal(noon.Add(1)) }},
		{"noted", func(e *Entry) error { return d.Note(e, []byte("half")) }, func(e *Entry) bool { return e.State == Started && string(e.Intent) == "half" }},
		{"cancelled", func(e *Entry) error { return d.Cancel(e, d.fleet.Cancel(e.Action.Envelope)) }, func(e *Entry) bool { return e.State == Started && e.Cancelled && string(e.Intent) == "half" }},
		{"finished", func(e *Entry) error { return d.Finish(e, result, noon) }, func(e *Entry) bool { return e.State == Finished && string(e.Result) == string(result) && e.Ended() }},
	} {
		before := d.changes
		d.good(c.do(d.Find(uid)))
		if e := d.Find(uid); !c.check(e) || c.name != "received" && d.changes == before {
			t.Errorf("%s: %+v after %d changes", c.name, e, d.changes-before)
		}
		d.open()
		if e := d.Find(uid); e == nil || !c.check(e) || e.Action == nil || len(d.Open()) != 1 {
			t.Fatalf("%s, another process finds %+v", c.name, e)
		}
	}
	if err := d.Note(d.Find(uid), make([]byte, MaxIntent+1)); err == nil {
		t.Error("took a note without bounds")
	}
	d.good(d.Settle(d.Find(uid), noon))
	for range 2 {
		e := d.Find(uid)
		if got, err := d.Result(e); err != nil || string(got) != string(result) || e.State != Settled || e.Action != nil || len(d.Open()) != 0 {
			t.Errorf("settled: %+v, %q, %v", e, got, err)
		}
		d.open()
	}
}

// Oldest first, whatever the order in which they are read.
func TestOrder(t *testing.T) {
	d := newDesk(t)
	var want []string
	for i := range 20 {
		want = append(want, d.received(time.Duration(i)*time.Second, nil).UID)
	}
	d.open()
	for i, e := range d.Open() {
		if e.UID != want[i] {
			t.Fatalf("the action %d is %s, want %s", i, e.UID, want[i])
		}
	}
}

// What the disk does not take has not happened; a result is written later.
func TestFullDisk(t *testing.T) {
	d := newDesk(t)
	a := d.action(0, nil)
	block := filepath.Join(d.path, "actions", a.Order.GetActionUid()+".tmp", "x")
	full := func() { d.good(os.MkdirAll(block, 0o700)) }
	room := func() { d.good(os.RemoveAll(filepath.Dir(block))) }
	full()
	if err := d.Receive(a, noon); err == nil || d.Find(a.Order.GetActionUid()) != nil {
		t.Fatalf("received on a full disk: %v", err)
	}
	room()
	d.good(d.Receive(a, noon))
	e := d.Find(a.Order.GetActionUid())
	full()
	if err := errors.Join(d.Start(e, noon)); err == nil || e.State != Received || !e.StartedAt.IsZero() {
		t.Errorf("started on a full disk: %v, %+v", err, e)
	}
	room()
	d.good(d.Start(e, noon))
	full()
	if err := d.Finish(e, []byte("{}"), noon); err == nil || e.State != Started || !e.Ended() || e.Result != nil {
		t.Errorf("finished on a full disk: %v, %+v", err, e)
	}
	if got, err := d.Retry(); err == nil || got != e {
		t.Errorf("retried on a full disk: %v, %v", got, err)
	}
	room()
	if got, err := d.Retry(); err != nil || got != e || e.State != Finished || string(e.Result) != "{}" {
		t.Errorf("retried: %v, %+v", err, got)
	}
	if got, err := d.Retry(); got != nil || err != nil {
		t.Errorf("retried again: %v, %v", err, got)
	}
	full()
	if err := d.Settle(e, noon); err == nil || e.State != Finished || len(d.Open()) != 1 {
		t.Errorf("settled on a full disk: %v, %+v", err, e)
	}
}

// What may be forgotten: only settled actions that cannot begin any more, and of those the old ones, or those beyond a thousand.
func TestPrune(t *testing.T) {
	d := newDesk(t)
	settle := func(expires, settled time.Duration) string {
		e := d.received(0, func(m *agentv1.Action) { m.ExpiresAt = timestamppb.New(noon.Add(expires)) })
		d.good(d.Finish(e, []byte("{}"), noon))
		d.good(d.Settle(e, noon.Add(settled)))
		return e.UID
	}
	open := d.received(0, func(m *agentv1.Action) { m.ExpiresAt = timestamppb.New(noon) }).UID
	late, old, fresh := settle(80*day, 0), settle(day, 0), settle(day, 20*day)
	d.good(d.Prune(noon.Add(day), noon.Add(KeepFor)))
	if d.Find(open) == nil || d.Find(late) == nil || d.Find(old) != nil || d.Find(fresh) == nil {
		t.Error("forgot the wrong ones")
	}
	d.good(d.Prune(noon.Add(day-1), noon.Add(100*day)))
	if d.Find(fresh) == nil {
		t.Error("forgot one that could begin again by the floor")
	}
	for i := range KeepSettled {
		d.all[string(rune('a'+i))] = &Entry{UID: string(rune('a' + i)), State: Settled, expiresAt: noon, changedAt: noon.Add(21 * day)}
	}
	d.good(d.Prune(noon.Add(day), noon.Add(22*day)))
	if d.Find(fresh) != nil || d.Find(late) == nil || len(d.all) != KeepSettled+2 {
		t.Errorf("%d are kept", len(d.all))
	}
	d.open()
	if d.Find(open) == nil || d.Find(late) == nil || d.Find(old) != nil || d.Find(fresh) != nil || d.Find("a") != nil {
		t.Error("the disk has others")
	}
}

func TestFull(t *testing.T) {
	d := newDesk(t)
	var last *Entry
	for i := range MaxOpen {
		if d.Full() {
			t.Fatalf("full with %d", i)
		}
		last = d.received(0, nil)
	}
	d.good(d.Finish(last, []byte("{}"), noon))
	if !d.Full() {
		t.Error("not full")
	}
	d.good(d.Settle(last, noon))
	if d.Full() {
		t.Error("still full")
	}
}

// A record that says nothing of use is as good as a damaged one. What is lost stays so, and can be told once it is known what it was.
func TestUseless(t *testing.T) {
	d := newDesk(t)
	e := d.received(0, nil)
	a := e.Action
	r := e.record()
	r.State = 7
	d.good(d.dir.SaveAction(e.UID, r, false))
	d.open()
	e = d.Find(a.Order.GetActionUid())
	if !e.Lost || e.Action == nil || e.State != Started { // the order is good
		t.Fatalf("%+v", e)
	}
	r.Order = d.action(0, nil).Envelope // another's
	d.good(d.dir.SaveAction(e.UID, r, false))
	for range 2 {
		d.open()
		if e = d.Find(a.Order.GetActionUid()); !e.Lost || e.Action != nil || e.State != Started || len(d.Open()) != 1 {
			t.Fatalf("%+v", e)
		}
	}
	d.Learn(e, a)
	d.good(d.Finish(e, []byte("{}"), noon))
	d.open()
	if e = d.Find(a.Order.GetActionUid()); e.Lost || e.State != Finished || e.Action.Digest != a.Digest {
		t.Errorf("%+v", e)
	}
	if len(d.dir.Damaged()) != 0 {
		t.Errorf("damaged %v", d.dir.Damaged())
	}
}
