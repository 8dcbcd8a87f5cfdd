package model

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
)

// endpoint is what etcd has of one. Its identity's keys are known to all.
type endpoint struct {
	name, uid, identity string
	lifecycle           v1alpha1.EndpointLifecycle
	cloned              bool   // two machines were seen
	journal, accepted   string // the agent's, and the one that a person has accepted
	journalMade         time.Time
	capable             bool
	disabled            []v1alpha1.ActionType
	declared            v1alpha1.Isolation
	isolated            bool
	isolatedBy          string
	channel             v1alpha1.Channel
	online              bool
	lastSeen            time.Time
}

func (e *endpoint) conflict() bool { return e.cloned || e.journal != e.accepted }

// facts are what decisions are made by.
func (e *endpoint) facts() *action.Endpoint {
	if e == nil {
		return nil
	}
	f := &action.Endpoint{
		IdentityID: e.identity, Lifecycle: e.lifecycle, Conflict: e.conflict(), Reported: true, AgentVersion: "8.0.0",
		JournalID: e.journal, JournalTime: e.journalMade, Policy: "p", Disabled: e.disabled, Channel: e.channel, Online: e.online, LastSeen: e.lastSeen,
		Interval: interval, Isolation: e.declared, State: &v1alpha1.EndpointAgent{Isolation: v1alpha1.Released, IsolationActionUID: e.isolatedBy},
	}
	if e.isolated {
		f.State.Isolation = v1alpha1.Isolated
	}
	if e.capable {
		for _, kind := range kinds {
			f.Capabilities = append(f.Capabilities, v1alpha1.Text(kind))
		}
	}
	return f
}

// object is one version of an action or an endpoint. It is never changed.
type object struct {
	version  int
	action   *v1alpha1.EndpointAction
	endpoint *endpoint
}

// state is all that is stored at one moment, by keys such as actions/a1 and endpoints/e1.
type state map[string]object

func (s state) action(key string) *v1alpha1.EndpointAction { return s[key].action }

func (s state) endpoint(name string) *endpoint { return s["endpoints/"+name].endpoint }

// byIdentity finds whose certificate it is.
func (s state) byIdentity(id string) *endpoint {
	for _, key := range s.keys("endpoints/") {
		if e := s[key].endpoint; e.identity == id {
			return e
		}
	}
	return nil
}

func (s state) byUID(uid string) (key string, a *v1alpha1.EndpointAction) {
	for _, key := range s.keys("actions/") {
		if a := s[key].action; string(a.UID) == uid {
			return key, a
		}
	}
	return "", nil
}

func (s state) keys(prefix string) []string {
	var keys []string
	for key := range s {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// etcd has every state that there was. Who watches it is at one of them, and may be behind.
type etcd struct {
	version   int
	states    []state
	versions  []int    // that were the newest in each state
	abandoned [][2]int // those after the first, up to the second, were undone
	check     func(before, after *v1alpha1.EndpointAction)
}

func (e *etcd) now() state { return e.states[len(e.states)-1] }

func (e *etcd) change(key string, o object) {
	next := maps.Clone(e.now())
	e.version++
	if o.version = e.version; o.action == nil && o.endpoint == nil {
		delete(next, key)
	} else {
		next[key] = o
	}
	if o.action != nil {
		o.action.ResourceVersion = strconv.Itoa(o.version)
	}
	e.states, e.versions = append(e.states, next), append(e.versions, e.version)
}

// restore brings an earlier state back. Versions go on from where they were, as Kubernetes asks of those who restore.
func (e *etcd) restore(at int) {
	e.abandoned = append(e.abandoned, [2]int{e.versions[at], e.version})
	e.states, e.versions = append(e.states, maps.Clone(e.states[at])), append(e.versions, e.version)
}

// undone tells whether what somebody knows of an action is from a time that etcd has no memory of.
func (e *etcd) undone(a *v1alpha1.EndpointAction) bool {
	version, _ := strconv.Atoi(a.ResourceVersion)
	return slices.ContainsFunc(e.abandoned, func(r [2]int) bool { return r[0] < version && version <= r[1] })
}

type answer string

const (
	written  answer = "written"
	conflict answer = "conflict"
	notFound answer = "not found"
	silence  answer = "silence"
)

// put writes the status of an action over the version that it was decided on.
func (e *etcd) put(key string, base *v1alpha1.EndpointAction, status *v1alpha1.EndpointActionStatus) answer {
	stored := e.now().action(key)
	switch {
	case stored == nil || stored.UID != base.UID:
		return notFound
	case stored.ResourceVersion != base.ResourceVersion:
		return conflict
	}
	after := stored.DeepCopy()
	after.Status = *status.DeepCopy()
	e.check(stored, after)
	e.change(key, object{action: after})
	return written
}

// edit changes what people may change of an action.
func (e *etcd) edit(key string, change func(*v1alpha1.EndpointAction)) {
	a := e.now().action(key).DeepCopy()
	change(a)
	a.Generation++
	e.change(key, object{action: a})
}

// patch changes an endpoint.
func (e *etcd) patch(name string, change func(*endpoint)) {
	if old := e.now().endpoint(name); old != nil {
		next := *old
		if change(&next); !equal(*old, next) {
			e.change("endpoints/"+name, object{endpoint: &next})
		}
	}
}

func equal(a, b endpoint) bool {
	same := slices.Equal(a.disabled, b.disabled)
	a.disabled, b.disabled = nil, nil
	return same && a.name == b.name && a.uid == b.uid && a.identity == b.identity && a.lifecycle == b.lifecycle && a.cloned == b.cloned &&
		a.journal == b.journal && a.accepted == b.accepted && a.journalMade.Equal(b.journalMade) && a.capable == b.capable && a.declared == b.declared &&
		a.isolated == b.isolated && a.isolatedBy == b.isolatedBy && a.channel == b.channel && a.online == b.online && a.lastSeen.Equal(b.lastSeen)
}

// view is where a watcher is.
type view struct{ at int }

func (v *view) see(e *etcd) state { return e.states[v.at] }

// catchUp goes on some of the way, or all of it.
func (v *view) catchUp(e *etcd, steps int) { v.at = min(v.at+steps, len(e.states)-1) }

func (v *view) current(e *etcd) { v.at = len(e.states) - 1 }
