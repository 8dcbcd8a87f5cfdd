package store

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// What is written and why is decided here. Nothing in this file reads a clock or reaches for anything.

// block of an Endpoint's status, encoded.
type block struct {
	json   []byte
	digest Digest
}

func newBlock[T any](v *T) *block {
	if v == nil {
		return nil
	}
	b, d := encode(v)
	return &block{b, d}
}

// change is what waits to be written about an endpoint: the newest of each block. nil blocks stay as they are.
type change struct {
	seen             time.Time
	replaces         Connection
	connection       *Connection
	gateway          string // where the session was, if connection says that it is down
	finding          bool   // connection says nothing new but a conflict, or its end
	agent, inventory *block
}

func changeOf(r Report) change {
	c := change{seen: wholeSeconds(r.Seen), replaces: r.Replaces, agent: newBlock(r.Agent), inventory: newBlock(r.Inventory)}
	if r.Connection != nil {
		n := r.Connection.normal()
		c.connection, c.gateway, c.finding = &n, r.Replaces.Gateway, n == r.Replaces.normal().conflicting(n)
	}
	return c
}

// merge lays a newer change over this one.
func (c *change) merge(n change) {
	// What was decided by a connection that is not written yet is, seen from the API server, decided by the one before.
	if c.connection == nil || n.replaces.normal() != *c.connection {
		c.replaces = n.replaces
	}
	if n.seen.After(c.seen) {
		c.seen = n.seen
	}
	switch {
	case n.finding && c.connection != nil && n.replaces.normal() == *c.connection: // it is found of what waits
		c.connection = n.connection
	case n.connection != nil:
		c.connection, c.gateway, c.finding = n.connection, n.gateway, n.finding
	}
	c.agent, c.inventory = cmp.Or(n.agent, c.agent), cmp.Or(n.inventory, c.inventory)
}

// without takes out what was written and has not changed since.
func (c *change) without(written change) {
	if written.connection != nil && c.replaces == written.replaces {
		c.replaces = *written.connection
	}
	if c.connection == written.connection {
		c.connection = nil
	}
	if c.agent == written.agent {
		c.agent = nil
	}
	if c.inventory == written.inventory {
		c.inventory = nil
	}
	if c.seen.Equal(written.seen) {
		c.seen = time.Time{}
	}
}

func (c *change) empty() bool { return len(c.blocks()) == 0 }

// Blocks of the status that gateways write.
const (
	blockConnection = "connection"
	blockAgent      = "agent"
	blockInventory  = "inventory"
	blockSeen       = "lastSeenTime"
)

func (c *change) blocks() (names []string) {
	if c.connection != nil {
		names = append(names, blockConnection)
	}
	if c.agent != nil {
		names = append(names, blockAgent)
	}
	if c.inventory != nil {
		names = append(names, blockInventory)
	}
	if !c.seen.IsZero() {
		names = append(names, blockSeen)
	}
	return names
}

// lesser is what to write where the API server does not take the whole: an endpoint that is there must not look offline because something
// that its agent says is not acceptable.
func (c change) lesser() (kept change, dropped []string) {
	kept = change{seen: c.seen, replaces: c.replaces}
	if c.agent != nil || c.inventory != nil {
		kept.connection, kept.gateway, kept.finding = c.connection, c.gateway, c.finding
	}
	for _, b := range c.blocks() {
		if !slices.Contains(kept.blocks(), b) {
			dropped = append(dropped, b)
		}
	}
	return kept, dropped
}

// instance that this was decided for.
func (c *change) instance() Instance {
	if c.connection != nil {
		return c.connection.Instance
	}
	return c.replaces.Instance
}

// stands tells whether what was decided by the connection it replaces still holds where the stored one is another by now. What no longer
// does needs no successor: the next heartbeat is judged by what is stored then.
func (c *change) stands(stored Connection) bool {
	mine := c.instance()
	same := stored.Instance == mine && mine.ID != ""
	switch {
	case c.finding:
		return same && stored.ConflictInstance == c.replaces.ConflictInstance
	case c.connection != nil && same && !c.follows(stored):
		return false
	case c.down() && same:
		return true
	case c.down() && c.replaces.Instance == mine: // it was stored, and another has taken its place
		return false
	case stored.Instance == c.replaces.Instance:
		return c.connection == nil || stored.ConflictInstance == c.replaces.ConflictInstance
	case stored.Epoch != mine.Epoch:
		return mine.Epoch > stored.Epoch
	default:
		return stored.ID == mine.ID && mine.Session >= stored.Session
	}
}

// down tells whether this says that a session is down.
func (c *change) down() bool {
	return c.connection != nil && c.connection.Channel == v1alpha1.ChannelNone && !c.finding
}

// follows tells whether the connection may take the place of one that is stored of the same session. A session is down only where it was up,
// at the same gateway: whoever has heard of the machine since then knows better. And it is not up where the agent has said that it is over, or
// where another gateway has it.
func (c *change) follows(stored Connection) bool {
	up := stored.Channel == v1alpha1.ChannelWebSocket
	switch c.connection.Channel {
	case v1alpha1.ChannelWebSocket:
		return up && stored.Gateway == c.connection.Gateway || stored.Channel == v1alpha1.ChannelNone
	case v1alpha1.ChannelNone:
		return up && stored.Gateway == c.gateway
	default:
		return true
	}
}

// after is the connection that is there once c is written over a stored one. A conflict changes nothing else, and neither does a session that
// is down: something else may have happened meanwhile.
func (c *change) after(stored Connection) Connection {
	switch {
	case c.finding:
		return stored.conflicting(*c.connection)
	case c.down() && stored.Instance == c.connection.Instance:
		stored.Channel, stored.Gateway, stored.Since = c.connection.Channel, "", c.connection.Since
		if c.connection.ConflictInstance != c.replaces.ConflictInstance { // found since it was down
			stored = stored.conflicting(*c.connection)
		}
		return stored
	}
	return *c.connection
}

// conflicting is c with the conflict of another.
func (c Connection) conflicting(with Connection) Connection {
	c.ConflictInstance, c.ConflictReason = with.ConflictInstance, with.ConflictReason
	return c
}

// names tells whether a Ref of an Endpoint still stands for the enrolment that has this identity.
func (at Ref) names(identityID string) bool { return at.identity == "" || at.identity == identityID }

// state is what the API server holds of what gateways write.
type state struct {
	connection       Connection
	seen             time.Time
	agent, inventory Digest
}

func stateOf(e *v1alpha1.Endpoint) state {
	s := state{connection: connectionOf(e.Status.Connection), agent: DigestOf(e.Status.Agent), inventory: DigestOf(e.Status.Inventory)}
	if e.Status.LastSeenTime != nil {
		s.seen = wholeSeconds(e.Status.LastSeenTime.Time)
	}
	return s
}

func (r *record) state() state {
	return state{connection: r.connection(), seen: r.seen.time(), agent: r.agent, inventory: r.inventory}
}

// over is what is there once c is written.
func (c *change) over(s state) state {
	if !c.stands(s.connection) {
		return s
	}
	if c.connection != nil {
		s.connection = c.after(s.connection)
	}
	if c.seen.After(s.seen) {
		s.seen = c.seen
	}
	if c.agent != nil {
		s.agent = c.agent.digest
	}
	if c.inventory != nil {
		s.inventory = c.inventory.digest
	}
	return s
}

// operation of a JSON Patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"` // null, too, has a meaning: a test for what is absent
}

// patch is the JSON Patch that makes s what c says, on condition that it is what was seen; blocks names what it writes. There is none if
// nothing is to be written.
func (c *change) patch(at Ref, s state) (patch []byte, blocks []string) {
	want := c.over(s)
	if want == s {
		return nil, nil
	}
	ops := []operation{{"test", "/metadata/uid", at.UID}}
	if at.identity != "" {
		ops = append(ops, operation{"test", "/status/identity/id", at.identity})
	}
	add := func(block string, value any) {
		ops = append(ops, operation{"add", "/status/" + block, value})
		blocks = append(blocks, block)
	}
	if want.connection != s.connection {
		ops = append(ops, s.connection.tests()...)
		add(blockConnection, want.connection.resource())
	}
	if want.agent != s.agent {
		add(blockAgent, json.RawMessage(c.agent.json))
	}
	if want.inventory != s.inventory {
		add(blockInventory, json.RawMessage(c.inventory.json))
	}
	if !want.seen.Equal(s.seen) {
		add(blockSeen, metav1.Time{Time: want.seen})
	}
	patch, err := json.Marshal(ops)
	if err != nil { // none of these can fail
		return nil, nil
	}
	return patch, blocks
}

// tests hold as long as this is the connection that is stored.
func (c Connection) tests() []operation {
	const at = "/status/connection"
	if c == (Connection{}) {
		return []operation{{"test", at, nil}}
	}
	return []operation{
		{"test", at + "/epoch", absent(c.Epoch)},
		{"test", at + "/instanceID", absent(c.ID)},
		{"test", at + "/sessionNumber", absent(c.Session)},
		{"test", at + "/conflictInstanceID", absent(c.ConflictInstance)},
		{"test", at + "/channel", absent(c.Channel)},
		{"test", at + "/gateway", absent(c.Gateway)},
	}
}

// absent is how an optional field is stored: not at all where it is zero.
func absent[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

// normal is c as the API server will return it.
func (c Connection) normal() Connection {
	c.Since, c.InstanceTime = wholeSeconds(c.Since), wholeSeconds(c.InstanceTime)
	return c
}

func wholeSeconds(t time.Time) time.Time { return stampAt(t).time() }

func connectionOf(c *v1alpha1.EndpointConnection) Connection {
	if c == nil {
		return Connection{}
	}
	out := Connection{
		Instance: Instance{Epoch: c.Epoch, ID: c.InstanceID, Session: c.SessionNumber},
		Channel:  c.Channel, Gateway: string(c.Gateway), Since: stampOf(c.SinceTime).time(), InstanceTime: stampOf(c.InstanceTime).time(),
		PreviousInstance: c.PreviousInstanceID, ConflictInstance: c.ConflictInstanceID, ConflictReason: c.ConflictReason, Error: c.Error,
	}
	out.RemoteAddress = string(c.RemoteAddress[:min(len(c.RemoteAddress), maxText)])
	return out
}

// maxText bounds v1alpha1.Text.
const maxText = 128

func (c Connection) resource() *v1alpha1.EndpointConnection {
	return &v1alpha1.EndpointConnection{
		Channel: c.Channel, Gateway: v1alpha1.LocalName(c.Gateway),
		Epoch: c.Epoch, InstanceID: c.ID, SessionNumber: c.Session,
		SinceTime: timeOf(c.Since), InstanceTime: timeOf(c.InstanceTime),
		PreviousInstanceID: c.PreviousInstance, ConflictInstanceID: c.ConflictInstance, ConflictReason: c.ConflictReason, Error: c.Error,
		RemoteAddress: v1alpha1.Text(c.RemoteAddress),
	}
}

func timeOf(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t}
}
