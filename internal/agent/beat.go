package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// maxStreak is how many heartbeats may follow each other at once.
const maxStreak = 10

// sections are the tags of the parts of a heartbeat that are sent when they have changed.
type sections struct{ capabilities, inventory string }

// errYielded says that a heartbeat over HTTPS was given up because a websocket opened.
var errYielded = errors.New("the heartbeat goes over the websocket")

// beatIfDue sends a heartbeat that is due, by the channel of the moment.
func (e *Engine) beatIfDue(ctx context.Context) {
	if e.boot() < e.beat.due || ctx.Err() != nil {
		return
	}
	switch channel, _ := e.session.Channel(e.boot(), e.beat.due); channel {
	case session.WebSocket:
		e.sendBeat(ctx)
	case session.HTTPS:
		e.overHTTPS = true
		e.perform(ctx, &e.beat, e.heartbeat)
	case session.Wait:
	}
}

// beatDue is when beatIfDue has something to do, unless something happens before.
func (e *Engine) beatDue() time.Duration {
	if e.beat.due == never {
		return never
	}
	if channel, until := e.session.Channel(e.boot(), e.beat.due); channel == session.Wait {
		return until
	}
	return e.beat.due
}

// heartbeat says over HTTPS what this machine is, and takes what the fleet has to say.
func (e *Engine) heartbeat(ctx context.Context) (time.Duration, error) {
	if err := e.ensureTrust(ctx, 0); err != nil {
		return 0, err
	}
	beat, tags := e.compose(ctx)
	beat.Agent.SessionNumber, beat.SessionError = e.session.Over(), wire.CutText(e.session.View().Phrase(), wire.MaxText)
	exchange, done := e.line.Yield(ctx)
	defer done()
	reply, err := e.connection().Heartbeat(exchange, e.moment(), beat)
	switch {
	case err != nil && exchange.Err() != nil && ctx.Err() == nil:
		return 0, errYielded
	case err != nil:
		e.lessIf(problem.Of(err).Name)
		return 0, err
	}
	e.session.Reachable(e.boot(), e.Random())
	return e.accepted(ctx, reply, e.Host.Clock(), tags), nil
}

// lessIf makes the next heartbeat smaller if this one was refused for what is in it: rather less than nothing for ever.
func (e *Engine) lessIf(refused wire.Name) {
	if refused == wire.PayloadTooLarge || refused == wire.Malformed {
		e.slim = true
		e.reportsEnd(e.boot(), refused)
	}
}

// accepted takes the answer to a heartbeat, and returns how long until the next.
func (e *Engine) accepted(ctx context.Context, reply *agentv1.HeartbeatReply, received liveness.Reading, tags sections) time.Duration {
	e.reported, e.asked, e.trustAsked = tags, sections{}, false
	e.gateway = reply.GetGateway()
	e.acceptedAt = received.Boot
	e.content.heard = true
	e.listen(ctx, heard{reply.GetBeacon(), reply.GetServerTime(), reply.GetOrders()}, received)
	for _, s := range reply.GetSend() {
		switch s {
		case agentv1.Section_SECTION_CAPABILITIES:
			e.asked.capabilities = "asked"
		case agentv1.Section_SECTION_INVENTORY:
			e.asked.inventory, e.slim = "asked", false
		}
	}
	faults.After("heartbeat", e.identityID())
	e.Log.V(1).Info("heartbeat accepted", "gateway", e.gateway)
	if e.reportsEnd(received.Boot, "") {
		return 0
	}
	if (reply.GetMore() || e.news) && e.streak < maxStreak {
		e.streak++
		return 0
	}
	e.streak = 0
	return e.untilNext()
}

// untilNext is the policy's interval. While the policy has not come, just after an enrolment, the interval is not known: the agent asks soon,
// and ever later.
func (e *Engine) untilNext() time.Duration {
	next := session.Jitter(e.interval(), 0.1, e.Random())
	if e.book.Complete() {
		e.incomplete = 0
		return next
	}
	e.incomplete = min(e.incomplete+1, 16)
	return min(next, session.Jitter(e.Timing.RetryBase<<(e.incomplete-1), 0.5, e.Random()))
}

// compose is a heartbeat, and the tags of its sections.
func (e *Engine) compose(ctx context.Context) (*agentv1.Heartbeat, sections) {
	e.news = false
	r := e.Host.Clock()
	e.clock.Pass(r)
	e.save()
	machine, boot := e.Host.IDs()
	beat := &agentv1.Heartbeat{
		Agent: &agentv1.AgentInfo{
			Version: e.Version, Platform: e.Platform, InstanceId: e.instance, Epoch: e.kept.GetEpoch(), MachineId: machine, BootId: boot,
			JournalId: e.kept.GetJournalId(), JournalCreatedAt: asTimestamp(e.journalCreated),
		},
		SentAt: timestamppb.New(r.Wall), TrustVersion: e.book.Trust.Version, AssignmentIssuedAt: asTimestamp(e.book.AssignedAt()),
		PolicyId: e.book.Policy().GetPolicyId(), PolicyRevision: e.book.Policy().GetRevision(),
		State: &agentv1.EndpointState{ProxyUrl: client.ProxyName(e.Proxy)}, Vitals: e.Host.Vitals(ctx),
		RejectedOrders: e.rejected, LastRejection: e.lastRejection, OpenActions: e.openActions(), JournalFull: e.journal.Full(),
		Content: e.contentState(),
	}
	if e.clock.Anchored() {
		age, _ := e.clock.BeaconAge(r)
		beat.BeaconAge = durationpb.New(bounded(max(0, age)))
		beat.ClockSkew = durationpb.New(bounded(e.clock.Skew()))
	}
	e.content.told = e.contentInShort()
	full := len(e.reports) > 0
	e.reportsSent()
	capabilities, inventory := &agentv1.Capabilities{Names: e.capabilities}, e.Host.Inventory(ctx)
	tags := sections{tag(capabilities), tag(withoutFree(inventory))}
	beat.CapabilitiesTag, beat.InventoryTag = tags.capabilities, tags.inventory
	if tags.capabilities != e.reported.capabilities || e.asked.capabilities != "" || full {
		beat.Capabilities = capabilities
	}
	if (tags.inventory != e.reported.inventory || e.asked.inventory != "") && !e.slim || full {
		beat.Inventory = inventory
	}
	if err := wire.CheckHeartbeat(beat); err != nil { // a machine that says something odd of itself is still there
		e.Log.Info("left out of the heartbeat what is out of bounds: " + err.Error())
		beat.Inventory, beat.Vitals = nil, nil
	}
	return beat, tags
}

func bounded(d time.Duration) time.Duration { return min(max(d, -wire.MaxSkew), wire.MaxSkew) }

// withoutFree leaves out what changes by the minute, so that the tag does not.
func withoutFree(i *agentv1.Inventory) *agentv1.Inventory {
	i, _ = proto.Clone(i).(*agentv1.Inventory) // a clone has the type of its original
	for _, d := range i.GetDisks() {
		d.Free = 0
	}
	return i
}

func tag(m wire.Message) string {
	b, err := m.MarshalVT()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// heard is what may come with a heartbeat's answer, and without being asked for on a websocket.
type heard struct {
	beacon     *agentv1.Envelope
	serverTime *timestamppb.Timestamp
	orders     []*agentv1.Envelope
}

// listen takes the beacon, the time and the orders that came. Another policy than before is news, to be told at once.
func (e *Engine) listen(ctx context.Context, h heard, received liveness.Reading) {
	before := e.book.Policy()
	if b := h.beacon; b != nil {
		e.judge(ctx, b, func() error { return e.takeBeacon(ctx, b, received) })
	}
	if t := h.serverTime; t != nil {
		e.clock.Hint(t.AsTime(), received)
	}
	if e.clock.Anchored() && e.journalCreated.IsZero() {
		e.journalCreated = e.clock.SignedNow(received)
	}
	for _, topic := range topics { // what is older is not taken anyway; and begin sees by it that there was a journal
		e.raise(topic, e.journalCreated)
	}
	list := slices.Clone(h.orders)
	slices.SortStableFunc(list, func(a, b *agentv1.Envelope) int { return cmp.Compare(rank(a), rank(b)) })
	for _, o := range list {
		e.judge(ctx, h.beacon, func() error { return e.obey(o) })
	}
	e.save()
	e.prune()
	e.scheduleRenewal()
	if policy := e.book.Policy(); !proto.Equal(before, policy) {
		e.Log.Info("policy changed", "policy", policy.GetPolicyId(), "revision", policy.GetRevision(), "interval", e.interval().String())
		e.news = true
		e.want()
	}
}

// rank puts orders into the order in which they are obeyed.
func rank(e *agentv1.Envelope) int {
	order := []string{string(envelope.Assignment), string(envelope.Policy), string(envelope.Cancel), string(envelope.Action), string(envelope.Offer)}
	return slices.Index(order, e.GetPayloadType())
}

// prune drops actions that are not needed any more, by the floor that is on the disk: a crash must not bring back a time in which they could
// begin again.
func (e *Engine) prune() {
	if e.unwritable == nil {
		e.journaled(e.journal.Prune(asTime(e.kept.GetTimeFloor()), e.now()))
	}
}

func (e *Engine) takeBeacon(ctx context.Context, b *agentv1.Envelope, received liveness.Reading) error {
	m, err := e.book.Beacon(b)
	if err != nil {
		return err
	}
	if m.GetTrustVersion() > e.book.Trust.Version {
		e.askForTrust(ctx, b)
	}
	e.clock.Beacon(m.GetIssuedAt().AsTime(), received)
	return nil
}

// judge obeys an order. One by an unknown key is judged again if there is newer trust, which is asked for once per beacon. What is refused is
// counted and shown.
func (e *Engine) judge(ctx context.Context, beacon *agentv1.Envelope, obey func() error) {
	err := obey()
	if orders.IsUnsigned(err) && e.askForTrust(ctx, beacon) {
		err = obey()
	}
	if err != nil {
		e.rejected++
		e.lastRejection = wire.CutText(err.Error(), wire.MaxReason)
		e.Log.Info("an order was refused: "+err.Error(), "gateway", e.gateway, "reason", e.lastRejection)
	}
}

// askForTrust asks once per beacon, and tells whether newer trust came.
func (e *Engine) askForTrust(ctx context.Context, beacon *agentv1.Envelope) bool {
	sum := sha256.Sum256(beacon.GetPayload())
	if key := string(sum[:]); key != e.judgedByBeacon {
		e.judgedByBeacon = key
		version := e.book.Trust.Version
		e.tryRefreshTrust(ctx)
		return e.book.Trust.Version > version
	}
	return false
}
