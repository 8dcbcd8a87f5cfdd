package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/agent/journal"
	"github.com/rollcall-dev/rollcall/internal/agent/perform"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

type killed struct{}

// killedAt does something, and the process dies right after its nth change on the disk. It tells whether it came to that.
func (w *world) killedAt(n int, do func()) (was bool) {
	count := 0
	w.changed = func() {
		if count++; count == n {
			panic(killed{})
		}
	}
	defer func() {
		w.changed = func() {}
		switch fault := recover(); fault.(type) {
		case nil:
		case killed:
			was = true
		default:
			panic(fault)
		}
	}()
	do()
	return false
}

// notes has it write a note before its effect, and go on from there.
func (d *double) notes() {
	d.does(func(ctx context.Context, t *perform.Task) perform.Result {
		if t.Intent == nil {
			if err := t.Note(ctx, []byte("half")); err != nil {
				return perform.Cut(ctx, "not noted")
			}
		}
		d.done.Add(1)
		return perform.Done("done")
	})
}

// Killed after any change on the disk, the agent tells the fate of an action, one and no other, and does what may be done once at most once.
func TestKilledAtEachChange(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*agentv1.Action)
		double  string
		outcome []agentv1.Outcome
		least   int // changes on the disk
	}{
		"once":      {terminate, "TerminateProcess", []agentv1.Outcome{succeeded, unknown}, 4},
		"resumable": {quarantine, "QuarantineFile", []agentv1.Outcome{succeeded}, 5},
		"heartbeat": {func(*agentv1.Action) {}, "", []agentv1.Outcome{succeeded}, 4},
		"refused":   {func(m *agentv1.Action) { m.Parameters = nil }, "", []agentv1.Outcome{refusal}, 2},
		"cancelled": {nil, "TerminateProcess", []agentv1.Outcome{cancelled}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			n := 1
			for ; ; n++ {
				w := newWorld(t)
				w.doubles["QuarantineFile"].notes()
				w.online()
				w.live(time.Minute)
				var order, alone *agentv1.Envelope
				var uid string
				if c.change == nil {
					order, uid = w.action(terminate)
					alone = w.fleet.Cancel(order)
				} else {
					order, uid = w.action(c.change)
					alone = order
				}
				was := w.killedAt(n, func() {
					w.push(alone)
					w.live(10 * time.Second)
				})
				if !was {
					break
				}
				w.give(alone) // the server sends again what was not acknowledged
				w.crash()
				w.online()
				w.give(order)
				w.live(10 * time.Minute)
				all := w.gateway.Results(uid)
				if len(all) != 1 || !strings.Contains(outcomes(c.outcome), all[0].GetOutcome().String()) {
					t.Fatalf("killed at change %d: results %v, want %v", n, all, c.outcome)
				}
				if d := w.doubles[c.double]; d != nil {
					done := d.done.Load()
					if d.once && (done > 1 || all[0].GetOutcome() == succeeded && done != 1 || all[0].GetOutcome() == cancelled && done != 0) || !d.once && done == 0 {
						t.Errorf("killed at change %d: done %d times, told %s", n, done, all[0].GetOutcome())
					}
				}
				if e := w.journal.Find(uid); e == nil || e.State != journal.Settled {
					t.Errorf("killed at change %d: the record is %v", n, e)
				}
				w.expect("Online")
			}
			if n <= c.least {
				t.Errorf("only %d changes on the disk: this tested little", n-1)
			}
		})
	}
}

func outcomes(all []agentv1.Outcome) string {
	var out []string
	for _, o := range all {
		out = append(out, o.String())
	}
	return strings.Join(out, " ")
}

// Killed after the effect of an action and before its end is on the disk, or told to stop while it runs.
func TestKilledWhileItRuns(t *testing.T) {
	for name, end := range map[string]func(*world){
		"killed": (*world).crash,
		"stopped": func(w *world) {
			w.stop()
			w.crash()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.online()
			once, again := w.doubles["TerminateProcess"], w.doubles["QuarantineFile"]
			begun, _ := once.hold()
			begunToo, letGo := again.hold()
			first, firstUID := w.action(terminate)
			second, secondUID := w.action(quarantine)
			w.deaf = toActions
			w.push(first, second)
			w.Step(t.Context())
			<-begun
			<-begunToo
			end(w)
			close(letGo)
			w.deaf = toNothing
			w.online()
			w.live(time.Minute)
			if r := w.has(firstUID, unknown, "Interrupted"); r.GetStartedAt() == nil || r.GetActionDigest() != fleettest.Digest(first) {
				t.Errorf("result %v", r)
			}
			w.has(secondUID, succeeded, "Done")
			if once.done.Load() != 0 || again.done.Load() != 1 {
				t.Errorf("done %d and %d times", once.done.Load(), again.done.Load())
			}
		})
	}
}

// What the next version cannot do any more is not left hanging, and what was to stop does not go on.
func TestInterruptedFor(t *testing.T) {
	w := newWorld(t)
	w.online()
	begun, _ := w.doubles["QuarantineFile"].hold()
	first, firstUID := w.action(quarantine)
	second, secondUID := w.action(quarantine)
	w.deaf = toActions
	w.push(first, second)
	w.Step(t.Context())
	<-begun
	<-begun
	if w.killedAt(1, func() { w.push(w.fleet.Cancel(second)); w.Step(t.Context()) }); w.journal.Find(secondUID).State != journal.Started {
		t.Fatal("it has ended already")
	}
	w.crash()
	w.online()
	w.ends(secondUID, cancelled, "Cancelled")
	w.deaf = toNothing
	delete(w.config.Executors, "QuarantineFile")
	w.crash()
	w.online()
	w.live(time.Minute)
	w.has(firstUID, unknown, "Interrupted")
}

// A record that is damaged: the agent does not know what became of the action, and says so; where the record does not even tell what it was
// about, when the order comes again. It is never done a second time.
func TestDamagedRecord(t *testing.T) {
	for name, c := range map[string]struct {
		damage func([]byte) []byte
		waits  bool
	}{
		"empty": {func([]byte) []byte { return nil }, true},
		"cut":   {func(b []byte) []byte { return b[:len(b)/2] }, true},
		"bit":   {func(b []byte) []byte { b[0] ^= 1; return b }, false}, // of the checksum
		"zeros": {func(b []byte) []byte { return make([]byte, len(b)) }, true},
	} {
		for _, cancel := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				order, uid := w.damaged(terminate, c.damage)
				file := filepath.Join(w.path, "actions", uid)
				w.crash()
				w.online()
				if s := w.Status(); len(s.Damaged) != 1 {
					t.Errorf("damage is told as %v", s.Damaged)
				}
				w.crash()
				w.online()
				if _, err := os.Stat(file + ".corrupt"); err != nil {
					t.Error(err)
				}
				w.live(time.Minute)
				if n := len(w.gateway.Results(uid)); c.waits != (n == 1) {
					t.Errorf("%d results before the order comes again", n)
				}
				if c.waits {
					if open := w.gateway.LastBeat().GetOpenActions(); len(open) != 0 {
						t.Errorf("lists %v, so that the order does not come again", open)
					}
				}
				if cancel {
					w.push(w.fleet.Cancel(order))
				} else {
					w.push(order)
				}
				w.live(time.Minute)
				all := w.gateway.Results(uid)
				last := all[len(all)-1]
				if last.GetOutcome() != unknown || last.GetReason() != "JournalCorrupt" || last.GetActionDigest() != fleettest.Digest(order) || len(all) != 2 {
					t.Errorf("results %v", all)
				}
				w.settled(uid)
				if n := w.doubles["TerminateProcess"].done.Load(); n != 1 {
					t.Errorf("done %d times", n)
				}
			})
		}
	}
}

// damaged has an action done whose result nobody takes, and then damages its record in the journal.
func (w *world) damaged(change func(*agentv1.Action), damage func([]byte) []byte) (order *agentv1.Envelope, uid string) {
	w.t.Helper()
	w.online()
	w.gateway.SetAck(func(fleettest.Update) *agentv1.Ack { return fleettest.Refusal(&wire.Problem{Name: wire.NotReady}) })
	order, uid = w.action(change)
	w.push(order)
	w.live(time.Second)
	w.gateway.SetAck(nil)
	file := filepath.Join(w.path, "actions", uid)
	b, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(file, damage(b), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return order, uid
}

// Killed while it takes up a damaged record: it does not look as if the action were merely interrupted, and could go on.
func TestKilledAtADamagedRecord(t *testing.T) {
	for n := 1; n <= 4; n++ {
		w := newWorld(t)
		_, uid := w.damaged(quarantine, func(b []byte) []byte { b[0] ^= 1; return b })
		w.killedAt(n, func() { w.crash(); w.online() })
		w.crash()
		w.online()
		w.live(time.Minute)
		all := w.gateway.Results(uid)
		if last := all[len(all)-1]; last.GetReason() != "JournalCorrupt" || w.doubles["QuarantineFile"].done.Load() != 1 {
			t.Errorf("killed at change %d: %v, done %d times", n, all, w.doubles["QuarantineFile"].done.Load())
		}
	}
}

// Without its journal the agent is another one to the fleet, and takes nothing from before.
func TestJournalIsLost(t *testing.T) {
	w := newWorld(t)
	w.online()
	order, uid := w.action(terminate)
	w.push(order)
	w.ends(uid, succeeded, "Done")
	w.settled(uid)
	w.live(6 * time.Minute)
	first := w.gateway.LastBeat().GetAgent()
	w.crash()
	w.online()
	if again := w.gateway.LastBeat().GetAgent(); again.GetJournalId() != first.GetJournalId() || !again.GetJournalCreatedAt().AsTime().Equal(first.GetJournalCreatedAt().AsTime()) {
		t.Errorf("after a restart the journal is %s of %s", again.GetJournalId(), again.GetJournalCreatedAt().AsTime())
	}
	if err := os.RemoveAll(filepath.Join(w.path, "actions")); err != nil {
		t.Fatal(err)
	}
	for n := 1; w.killedAt(n, func() { w.crash(); w.online() }); n++ {
	}
	w.live(6 * time.Minute)
	last := w.gateway.LastBeat().GetAgent()
	if last.GetJournalId() == first.GetJournalId() || !last.GetJournalCreatedAt().AsTime().After(first.GetJournalCreatedAt().AsTime()) {
		t.Errorf("the journal is %s of %s", last.GetJournalId(), last.GetJournalCreatedAt().AsTime())
	}
	w.push(order, w.fleet.Cancel(order))
	w.live(time.Minute)
	w.has(uid, succeeded, "Done")
	if s := w.Status().Orders; s.Rejected != 2 || s.LastRejection != "action: OlderThanJournal" || w.doubles["TerminateProcess"].done.Load() != 1 {
		t.Errorf("orders %+v", s)
	}
}

// A state from before there was a journal of actions is none that has lost it.
func TestFirstJournal(t *testing.T) {
	w := newWorld(t)
	w.online()
	id := w.kept.GetJournalId()
	w.kept.IsolationFloor = nil
	if err := w.Dir.Save(w.kept); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(w.path, "actions")); err != nil {
		t.Fatal(err)
	}
	w.crash()
	w.online()
	if got := w.gateway.LastBeat().GetAgent().GetJournalId(); got != id {
		t.Errorf("the journal is %s, was %s", got, id)
	}
}
