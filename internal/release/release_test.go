package release

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

const identityID = "16fd2706-8baf-433b-82eb-8c7fada847da"

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// a release of a version that was offered with a sequence.
func a(version string, sequence int64, change ...func(*v1alpha1.ContentRelease)) v1alpha1.ContentRelease {
	r := v1alpha1.ContentRelease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "content-" + version, UID: types.UID("uid-" + version), CreationTimestamp: metav1.NewTime(noon)},
		Spec:       v1alpha1.ContentReleaseSpec{Version: version},
		Status:     v1alpha1.ReleaseStatus{Sequence: sequence, Offer: &v1alpha1.Envelope{}, Artifact: &v1alpha1.ReleaseArtifact{SHA256: "00", SizeBytes: 1}},
	}
	for _, f := range change {
		f(&r)
	}
	return r
}

func in(s v1alpha1.ReleaseState) func(*v1alpha1.ContentRelease) {
	return func(r *v1alpha1.ContentRelease) { r.Spec.State = s }
}

func only(device string) func(*v1alpha1.ContentRelease) {
	return func(r *v1alpha1.ContentRelease) {
		r.Spec.Selector = &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{"device": v1alpha1.LabelValue(device)}}
	}
}

func deleted(r *v1alpha1.ContentRelease) { r.DeletionTimestamp = ptrTo(metav1.NewTime(noon)) }

func unsigned(r *v1alpha1.ContentRelease) { r.Status.Offer = nil }

func offered(all ...v1alpha1.ContentRelease) (out []*Release) {
	for i := range all {
		if r, ok := Of(&all[i], content.Everybody, nil); ok {
			out = append(out, &r)
		}
	}
	Order(out, itself)
	return out
}

func itself(r *Release) *Release { return r }

func TestWhichReleaseAnEndpointShouldHave(t *testing.T) {
	laptop := Endpoint{IdentityID: identityID, Labels: labels.Set{"device": "laptop"}}
	pinned := func(version string) Endpoint {
		return Endpoint{IdentityID: identityID, Labels: laptop.Labels, Pin: version}
	}
	for name, tc := range map[string]struct {
		to   Endpoint
		all  []v1alpha1.ContentRelease
		want string
	}{
		"none":                            {laptop, nil, ""},
		"the highest, by numbers":         {laptop, []v1alpha1.ContentRelease{a("9", 1), a("10", 2), a("2.10", 3)}, "content-10"},
		"not one for others":              {laptop, []v1alpha1.ContentRelease{a("9", 1), a("10", 2, only("server"))}, "content-9"},
		"one for it":                      {laptop, []v1alpha1.ContentRelease{a("9", 1), a("10", 2, only("laptop"))}, "content-10"},
		"not one that is paused":          {laptop, []v1alpha1.ContentRelease{a("9", 1), a("10", 2, in("Paused"))}, "content-9"},
		"not one that is withdrawn":       {laptop, []v1alpha1.ContentRelease{a("9", 1), a("10", 2, in("Withdrawn"))}, "content-9"},
		"not one that is not verified":    {laptop, []v1alpha1.ContentRelease{a("9", 1), a("10", 2, unsigned)}, "content-9"},
		"not one that is deleted":         {laptop, []v1alpha1.ContentRelease{a("9", 1), a("10", 2, deleted)}, "content-9"},
		"the pinned one":                  {pinned("9.0"), []v1alpha1.ContentRelease{a("9", 1), a("10", 2)}, "content-9"},
		"none where the pinned is not":    {pinned("8"), []v1alpha1.ContentRelease{a("9", 1), a("10", 2)}, ""},
		"none where the pin is no pin":    {pinned("latest"), []v1alpha1.ContentRelease{a("0", 1)}, ""},
		"none where nothing selects it":   {Endpoint{IdentityID: identityID}, []v1alpha1.ContentRelease{a("9", 1, only("laptop"))}, ""},
		"not a pinned one that is paused": {pinned("9"), []v1alpha1.ContentRelease{a("9", 1, in("Paused")), a("10", 2)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := For(tc.to, offered(tc.all...), itself)
			if ok != (tc.want != "") || ok && got.Name != tc.want {
				t.Errorf("it should have %+v, want %q", got, tc.want)
			}
		})
	}
	nobodys, _ := Of(ptrTo(a("9", 1)), 0, nil)
	if got, ok := For(laptop, []*Release{&nobodys}, itself); ok {
		t.Errorf("outside of its share it should have %+v", got)
	}
}

func TestWhenAnOfferIsMade(t *testing.T) {
	r, _ := Of(ptrTo(a("1042", 50)), content.Everybody, []string{"1043"})
	for name, tc := range map[string]struct {
		pinned   bool
		runs     string
		sequence int64
		want     bool
	}{
		"it runs none":                            {false, "", 0, true},
		"it runs an older one":                    {false, "1041", 40, true},
		"it has judged this offer":                {false, "1041", 50, false},
		"it runs this one by an earlier offer":    {false, "1042", 40, true},
		"it runs this one":                        {false, "1042.0", 50, false},
		"it runs a newer one":                     {false, "1044", 40, false},
		"it runs one that was withdrawn":          {false, "1043", 40, true},
		"its policy pins this one":                {true, "1044", 60, true},
		"its policy pins this one, and it has it": {true, "1042", 60, false},
		"its policy pins this one, and it has none, and has judged a later offer": {true, "", 60, true},
		"it runs what is no version": {false, "old", 0, true},
	} {
		if got := r.Offers(tc.pinned, tc.runs, tc.sequence); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func ptrTo[T any](v T) *T { return &v }

func TestWhatIsOffered(t *testing.T) {
	r := a("1042", 0)
	r.Spec.Source.Signature = "signed"
	want := &agentv1.Offer{
		FleetId: "f", Namespace: "fleet", ReleaseUid: "uid-1042", Kind: agentv1.ReleaseKind_RELEASE_KIND_CONTENT, Version: "1042", Share: content.Everybody, ReleasedAt: timestamppb.New(noon),
		Artifacts: []*agentv1.Artifact{{Sha256: "00", Size: 1, MediaType: "m", Signature: "signed"}},
	}
	if got := Content("f", &r, "m", []v1alpha1.ContentRelease{r}); !proto.Equal(got, want) {
		t.Errorf("offered is %v, want %v", got, want)
	}
	again := a("1043.0", 2, in("Withdrawn"), func(r *v1alpha1.ContentRelease) { r.Name = "content-1043-again" })
	if got := Content("f", &r, "m", []v1alpha1.ContentRelease{r, a("1043", 1), again}).GetWithdrawn(); got != nil {
		t.Errorf("withdrawn are %v, and somebody else's release has that version", got)
	}
	many := []v1alpha1.ContentRelease{r}
	for v := range maxWithdrawn + 4 {
		many = append(many, a(fmt.Sprint(2000+v), 1, in("Withdrawn")))
	}
	if got := Content("f", &r, "m", many).GetWithdrawn(); len(got) != 16 || got[0] != "2019" { // what agents take, see internal/wire
		t.Errorf("withdrawn are %v", got)
	}
}

func TestSign(t *testing.T) {
	key, other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32))), ed25519.NewKeyFromSeed([]byte(strings.Repeat("b", 32)))
	r := a("1042", 0)
	offer := Content("f", &r, "m", []v1alpha1.ContentRelease{r, a("1043", 1), a("1044", 2, in("Withdrawn")), a("1045", 3, in("Withdrawn")), a("1041", 4, in("Withdrawn"))})
	if got := offer.GetWithdrawn(); !slices.Equal(got, []string{"1045", "1044"}) {
		t.Errorf("withdrawn are %v", got)
	}
	first, sequence, err := Sign(key, nil, offer, 0, 7, noon)
	if err != nil || sequence != noon.UnixMilli() {
		t.Fatalf("%d, %v", sequence, err)
	}
	if again, same, err := Sign(key, first, offer, sequence-1, sequence, noon.Add(time.Hour)); err != nil || again != first || same != sequence {
		t.Errorf("signed again without a reason: %d, %v", same, err)
	}
	for name, tc := range map[string]struct {
		by     ed25519.PrivateKey
		change func(*agentv1.Offer)
	}{"another key": {other, func(*agentv1.Offer) {}}, "another withdrawal": {key, func(o *agentv1.Offer) { o.Withdrawn = nil }}} {
		changed := Content("f", &r, "m", nil)
		changed.Withdrawn = offer.GetWithdrawn()
		tc.change(changed)
		next, higher, err := Sign(tc.by, first, changed, 0, sequence+5, noon.Add(-time.Hour)) // and the clock has gone back
		got := &agentv1.Offer{}
		if err != nil || higher != sequence+6 || envelope.Open(next, envelope.Offer, got, tc.by.Public()) != nil || got.GetSequence() != uint64(higher) {
			t.Errorf("%s: %d, %v", name, higher, err)
		}
	}
}

// An older version that is released later does not have the last word.
func TestSequencesRiseWithVersions(t *testing.T) {
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32)))
	r := a("1042", 50)
	late := a("1041", noon.UnixMilli())
	if floor := Floor(&r, []v1alpha1.ContentRelease{r, late, a("1043", noon.UnixMilli()+7), a("1040", noon.UnixMilli()+9, unsigned)}); floor != late.Status.Sequence {
		t.Errorf("its sequence is to be above %d", floor)
	}
	offer := Content("f", &r, "m", nil)
	first, sequence, err := Sign(key, nil, offer, 0, 0, noon.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if again, higher, err := Sign(key, first, offer, late.Status.Sequence, late.Status.Sequence, noon); err != nil || again == first || higher <= late.Status.Sequence {
		t.Errorf("sequence %d, then %d, %v", sequence, higher, err)
	}
}

func TestTheOlderHasTheVersion(t *testing.T) {
	first, second := a("2", 1), a("2.0", 2, func(r *v1alpha1.ContentRelease) { r.CreationTimestamp = metav1.NewTime(noon.Add(time.Second)) })
	all := []v1alpha1.ContentRelease{second, a("3", 1), first}
	if twin := a("3", 1, func(r *v1alpha1.ContentRelease) { r.Name, r.UID = "content-2-again", "uid-twin" }); TakenBy(&all[1], append(all, twin)) == nil {
		t.Error("of two that were made in one second both count")
	}
	if TakenBy(&first, all) != nil {
		t.Error("the first does not count")
	}
	if by := TakenBy(&second, all); by == nil || by.Name != first.Name {
		t.Errorf("the second is taken by %+v", by)
	}
}

func TestCount(t *testing.T) {
	r := a("1043", 1)
	here := func(name, runs, failure, hindrance string) Counted {
		return Counted{Name: name, Runs: runs, Failure: failure, Hindrance: hindrance, Has: string(r.UID)}
	}
	all := func(n int, runs string) (out []Counted) {
		for i := range n {
			out = append(out, here(fmt.Sprintf("agent-%02d", i), runs, "", ""))
		}
		return out
	}
	elsewhere := here("pinned", "1041", "", "")
	elsewhere.Has = "uid-1041"
	for _, tc := range []struct {
		r               v1alpha1.ContentRelease
		selected        []Counted
		applied, failed int32
		message         string
	}{
		{r, nil, 0, 0, "it selects no endpoint that has enrolled"},
		{r, all(51, "1042"), 0, 0, "offered with the next heartbeat of each endpoint"},
		{r, all(51, "1043"), 51, 0, "all 51 run it"},
		{r, append(all(49, "1043"), here("b", "1042", "", "is offline"), here("a", "1042", "", "is held")), 49, 0, "49 of 51 run it; a is held, b is offline"},
		{
			r, append(all(2, "1043"), here("c", "1042", "DigestDiffers: it differs", ""), elsewhere, here("n", "1044", "", "")), 2, 1,
			"2 of 5 run it; c failed, 1 runs a newer one, 1 is to run another one",
		},
		{
			r, append(all(2, "1043.0"), here("v", "1042", "", "is offline"), here("w", "1042", "", "is offline"), here("x", "1042", "", "is offline"), here("y", "1042", "", "is offline"), here("z", "", "", "")), 2, 0,
			"2 of 7 run it; v is offline, w is offline, x is offline, 1 others cannot take it yet, 1 will with the next heartbeat",
		},
		{
			r, append(all(2, "1043"), here("v", "1042", "", "is offline"), here("w", "1042", "", "is offline"), here("x", "1042", "", "is offline")), 2, 0,
			"2 of 5 run it; v is offline, w is offline, x is offline",
		},
		{r, []Counted{here("c", "1042", "DigestDiffers: it differs", ""), here("z", "", "", "")}, 0, 1, "0 of 2 run it; c failed, 1 will with the next heartbeat"},
		{a("1043", 1, in("Paused")), append(all(3, "1043"), here("z", "", "", "")), 3, 0, "paused: 3 of 4 run it, it is offered to nobody new"},
		{a("1043", 1, in("Withdrawn"), unsigned), all(4, "1043"), 4, 0, "withdrawn: 4 still run it: agent-00, agent-01, agent-02, 1 others"},
		{a("1043", 1, in("Withdrawn"), unsigned), []Counted{here("b", "1043", "", "is held"), here("c", "1042", "", "")}, 1, 0, "withdrawn: 1 still runs it: b is held"},
		{a("1043", 1, in("Withdrawn"), unsigned), all(3, "1042"), 0, 0, "withdrawn: nobody runs it"},
		{a("1043", 1, unsigned), all(3, "1042"), 0, 0, ""},
	} {
		got := Count(&tc.r, tc.selected)
		if got.Message != tc.message || got.Applied != tc.applied || got.Failed != tc.failed || int(got.Selected) != len(tc.selected) || len(got.Failures) != int(tc.failed) {
			t.Errorf("%+v, want %d, %d, %q", got, tc.applied, tc.failed, tc.message)
		}
		if active := tc.r.Status.Offer != nil && tc.r.Spec.State == ""; active != (got.Percent == 100) {
			t.Errorf("%s: %d %%", tc.message, got.Percent)
		}
	}
	if f := Count(&r, []Counted{here("c", "", "DigestDiffers: it differs", "")}).Failures[0]; f.EndpointName != "c" || f.Reason != "DigestDiffers" || f.Message != "it differs" {
		t.Errorf("a failure is told as %+v", f)
	}
}

// The API server refuses a status that is longer, and then none is ever written.
func TestCountKeepsToTheBounds(t *testing.T) {
	r := a("1043", 1)
	var all []Counted
	for i := range 12 {
		name := fmt.Sprintf("%c%s", 'l'-i, strings.Repeat("n", 200))
		all = append(all, Counted{Name: name, Failure: strings.Repeat("R", 200) + ": " + strings.Repeat("ä", 200), Has: string(r.UID)})
	}
	all[11].Failure = "it has no reason"
	got := Count(&r, all)
	if len(got.Failures) != 10 || got.Failures[0].EndpointName[0] != 'a' || got.Failures[0].Reason != "Failed" || got.Failures[0].Message != "it has no reason" {
		t.Errorf("failures are %+v", got.Failures)
	}
	for _, text := range []string{got.Message, got.Failures[1].Message} {
		if len(text) > 256 || !utf8.ValidString(text) || !strings.HasSuffix(text, "…") {
			t.Errorf("%d bytes: %q", len(text), text)
		}
	}
	if len(got.Failures[1].Reason) > 128 {
		t.Errorf("%d bytes: %q", len(got.Failures[1].Reason), got.Failures[1].Reason)
	}
}
