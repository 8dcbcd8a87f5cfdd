package content

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

const (
	fleet    = "0f8fad5b-d9cb-469f-a165-70867728950e"
	identity = "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02"
	uid      = "0b5bd0a4-34f9-4f8f-8a5b-7c3b3a2d8f01"
	digestB  = "b75a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// offer is of version 1042, sequence 7, released at noon.
func offer(change func(*agentv1.Offer)) *agentv1.Offer {
	o := &agentv1.Offer{
		FleetId: fleet, Namespace: "fleet", ReleaseUid: uid, Kind: agentv1.ReleaseKind_RELEASE_KIND_CONTENT, Version: "1042", Sequence: 7, Share: Everybody,
		IssuedAt: timestamppb.New(noon), ReleasedAt: timestamppb.New(noon),
		Artifacts: []*agentv1.Artifact{{Sha256: digestA, Size: 100, MediaType: MediaType, Signature: "x"}},
	}
	if change != nil {
		change(o)
	}
	return o
}

func TestJudge(t *testing.T) {
	version := func(v string) func(*agentv1.Offer) { return func(o *agentv1.Offer) { o.Version = v } }
	runs := func(v string) func(*Situation) {
		return func(s *Situation) { s.Version, s.Digest, s.Sequence = v, digestB, 6 }
	}
	policy := func(p *agentv1.Policy, and ...func(*Situation)) func(*Situation) {
		return func(s *Situation) {
			s.Policy = p
			for _, f := range and {
				f(s)
			}
		}
	}
	week := &agentv1.Policy{ContentDelayDays: 7}
	at := func(now time.Time) func(*Situation) { return func(s *Situation) { s.Now = now } }
	withdraws := func(v string, all ...string) func(*agentv1.Offer) {
		return func(o *agentv1.Offer) { o.Version, o.Withdrawn = v, all }
	}
	for name, c := range map[string]struct {
		change    func(*agentv1.Offer)
		situation func(*Situation)
		verdict   Verdict
		reason    string
	}{
		"the first":                       {nil, nil, Take, ""},
		"a newer one":                     {nil, runs("1041.9"), Take, ""},
		"newer by number, not by letters": {version("10.1"), runs("9.2"), Take, ""},
		"of the agent":                    {func(o *agentv1.Offer) { o.Kind = agentv1.ReleaseKind_RELEASE_KIND_AGENT }, nil, Ignore, ""},
		"of a kind to come":               {func(o *agentv1.Offer) { o.Kind, o.FleetId = 99, "x" }, nil, Ignore, ""},
		"of another fleet":                {func(o *agentv1.Offer) { o.FleetId = uid }, nil, Refuse, ReasonOtherFleet},
		"of another namespace":            {func(o *agentv1.Offer) { o.Namespace = "others" }, nil, Refuse, ReasonOtherNamespace},
		"for nobody":                      {func(o *agentv1.Offer) { o.Share = 0 }, nil, Ignore, ""},
		"a version that is none":          {version("newest"), nil, Refuse, ReasonMalformed},
		"of another media type":           {func(o *agentv1.Offer) { o.Artifacts[0].MediaType = "text/plain" }, nil, Refuse, ReasonUnsupported},
		"of the same sequence":            {nil, func(s *Situation) { s.Sequence = 7 }, Refuse, ReasonSuperseded},
		"of a lower sequence":             {nil, func(s *Situation) { s.Sequence = 8 }, Refuse, ReasonSuperseded},
		"what is in use":                  {nil, func(s *Situation) { runs("1042")(s); s.Digest = digestA }, Keep, ""},
		"what is in use, 1042.0":          {nil, func(s *Situation) { runs("1042.0")(s); s.Digest = digestA }, Keep, ""},
		"what is in use, pinned away":     {nil, policy(&agentv1.Policy{ContentVersion: "1041"}, runs("1042"), func(s *Situation) { s.Digest = digestA }), Defer, ReasonPinned},
		"another file of that version":    {nil, runs("1042"), Refuse, ReasonOtherContent},
		"lower":                           {version("1041"), runs("1042"), Refuse, ReasonDowngrade},
		"lower, another withdrawn":        {withdraws("1041", "1043"), runs("1042"), Refuse, ReasonDowngrade},
		"lower, this withdrawn":           {withdraws("1041", "1043", "1042.0"), runs("1042"), Take, ""},
		"lower, pinned":                   {version("1041"), policy(&agentv1.Policy{ContentVersion: "1041.0"}, runs("1042")), Take, ""},
		"lower, pinned, older sequence":   {version("1041"), policy(&agentv1.Policy{ContentVersion: "1041"}, runs("1042"), func(s *Situation) { s.Sequence = 9 }), Take, ""},
		"lower, pinned to another":        {version("1041"), policy(&agentv1.Policy{ContentVersion: "1040"}, runs("1042")), Refuse, ReasonDowngrade},
		"pinned to another":               {nil, policy(&agentv1.Policy{ContentVersion: "1041"}), Defer, ReasonPinned},
		"pinned to what is none":          {nil, policy(&agentv1.Policy{ContentVersion: "stable"}), Defer, ReasonPinned},
		"pinned to another, withdrawn":    {withdraws("1041", "1042"), policy(&agentv1.Policy{ContentVersion: "1042"}, runs("1042")), Defer, ReasonPinned},
		"delayed":                         {nil, policy(week, runs("1041")), Defer, ReasonDelayed},
		"a moment before its time":        {nil, policy(week, at(noon.AddDate(0, 0, 7).Add(-1))), Defer, ReasonDelayed},
		"in its time":                     {nil, policy(week, at(noon.AddDate(0, 0, 7))), Take, ""},
		"delayed, pinned":                 {nil, policy(&agentv1.Policy{ContentDelayDays: 7, ContentVersion: "1042"}), Take, ""},
		"delayed, what runs is withdrawn": {withdraws("1042", "1041"), policy(week, runs("1041")), Take, ""},
	} {
		s := Situation{FleetID: fleet, Namespace: "fleet", IdentityID: identity, Platform: "linux/amd64", Now: noon}
		if c.situation != nil {
			c.situation(&s)
		}
		j := Judge(offer(c.change), s)
		if j.Verdict != c.verdict || j.Reason != c.reason || (j.Reason == "") != (j.Message == "") || len(j.Message) > maxMessage ||
			(j.Artifact != nil) != (c.verdict >= Defer) {
			t.Errorf("%s: %+v, want %d %s", name, j, c.verdict, c.reason)
		}
		if want := noon.AddDate(0, 0, 7); c.reason == ReasonDelayed && !j.Until.Equal(want) || c.reason != ReasonDelayed && !j.Until.IsZero() {
			t.Errorf("%s: until %s", name, j.Until)
		}
	}
}

// Whatever is offered in whatever situation: nothing is taken but an offer for this endpoint, and a lower version only where somebody wanted it.
func TestNothingElseIsTaken(t *testing.T) {
	versions := rapid.SampledFrom([]string{"", "1", "1.0", "2", "2.1", "10", "x"})
	rapid.Check(t, func(t *rapid.T) {
		o := offer(func(o *agentv1.Offer) {
			o.Version = versions.Draw(t, "version")
			o.Sequence = rapid.Uint64Range(1, 3).Draw(t, "sequence")
			o.Share = rapid.SampledFrom([]uint32{0, 5000, Everybody}).Draw(t, "share")
			o.FleetId = rapid.SampledFrom([]string{fleet, uid}).Draw(t, "fleet")
			o.Namespace = rapid.SampledFrom([]string{"fleet", "others"}).Draw(t, "namespace")
			o.Withdrawn = rapid.SliceOfN(versions, 0, 2).Draw(t, "withdrawn")
		})
		s := Situation{
			FleetID: fleet, Namespace: "fleet", IdentityID: identity, Sequence: rapid.Uint64Range(0, 3).Draw(t, "own"), Now: noon,
			Version: rapid.SampledFrom([]string{"", "1", "2", "10"}).Draw(t, "runs"), Digest: rapid.SampledFrom([]string{digestA, digestB}).Draw(t, "digest"),
			Policy: &agentv1.Policy{ContentVersion: versions.Draw(t, "pin"), ContentDelayDays: rapid.Uint32Range(0, 1).Draw(t, "delay")},
		}
		before := proto.Clone(o)
		j := Judge(o, s)
		if !proto.Equal(before, o) {
			t.Error("the offer was changed")
		}
		if j.Verdict != Take {
			return
		}
		offered, err := ParseVersion(o.GetVersion())
		own, _ := ParseVersion(s.Version)
		pin := s.Policy.GetContentVersion()
		pinned := Same(pin, o.GetVersion())
		withdrawn := false
		for _, v := range o.GetWithdrawn() {
			withdrawn = withdrawn || Same(v, s.Version)
		}
		switch {
		case err != nil || o.GetFleetId() != fleet || o.GetNamespace() != "fleet" || !InShare(uid, identity, o.GetShare()):
			t.Errorf("not for it: %v", o)
		case s.Version != "" && offered.Compare(own) <= 0 && (offered == own || !pinned && !withdrawn):
			t.Errorf("from %s to %s", s.Version, o.GetVersion())
		case pin != "" && !pinned:
			t.Errorf("pinned to %s", pin)
		case o.GetSequence() <= s.Sequence && !pinned:
			t.Error("an old offer")
		case s.Policy.GetContentDelayDays() > 0 && !pinned && !withdrawn:
			t.Error("too soon")
		}
	})
}
