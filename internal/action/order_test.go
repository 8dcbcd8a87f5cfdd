package action

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// all types of action.
var all = []v1alpha1.ActionType{
	v1alpha1.QuarantineFile, v1alpha1.RestoreFile, terminate, isolate, release, terminal, setProxy, noProxy,
	v1alpha1.RetrieveFiles, v1alpha1.RetrieveSecurityEventData, v1alpha1.RetrieveSupportFile, heartbeat,
}

// TestOrder: what is asked of the agent is what the spec says.
func TestOrder(t *testing.T) {
	digest := v1alpha1.SHA256(strings.Repeat("ab", 32))
	began := metav1.NewMicroTime(noon.Add(-time.Hour + 123456*time.Microsecond))
	for name, tt := range map[string]struct {
		spec v1alpha1.EndpointActionSpec
		want *agentv1.Action
	}{
		"QuarantineFile": {
			v1alpha1.EndpointActionSpec{QuarantineFile: &v1alpha1.QuarantineFileParameters{Path: "/tmp/x", SHA256: digest}},
			&agentv1.Action{Parameters: &agentv1.Action_QuarantineFile{QuarantineFile: &agentv1.QuarantineFile{Path: "/tmp/x", Sha256: string(digest)}}},
		},
		"RestoreFile": {
			v1alpha1.EndpointActionSpec{RestoreFile: &v1alpha1.RestoreFileParameters{QuarantineID: uid, Path: "/tmp/y", Overwrite: v1alpha1.OverwriteAlways}},
			&agentv1.Action{Parameters: &agentv1.Action_RestoreFile{RestoreFile: &agentv1.RestoreFile{QuarantineId: uid, Path: "/tmp/y", Overwrite: true}}},
		},
		"TerminateProcess": {
			v1alpha1.EndpointActionSpec{TerminateProcess: &v1alpha1.TerminateProcessParameters{
				PID: ptr.To[int64](4242), StartTime: &began, Executable: "/usr/bin/sleep", SHA256: digest, Scope: v1alpha1.ScopeTree, GracePeriodSeconds: ptr.To[int32](0),
			}},
			&agentv1.Action{Parameters: &agentv1.Action_TerminateProcess{TerminateProcess: &agentv1.TerminateProcess{
				Pid: 4242, StartTime: timestamppb.New(began.Time), Executable: "/usr/bin/sleep", Sha256: string(digest), Tree: true, Grace: durationpb.New(0),
			}}},
		},
		"IsolateEndpoint": {
			v1alpha1.EndpointActionSpec{IsolateEndpoint: &v1alpha1.IsolateEndpointParameters{Allow: []v1alpha1.CIDR{"10.0.0.0/8"}}},
			&agentv1.Action{Parameters: &agentv1.Action_IsolateEndpoint{IsolateEndpoint: &agentv1.IsolateEndpoint{Allow: []string{"10.0.0.0/8"}}}},
		},
		"CancelIsolation": {
			v1alpha1.EndpointActionSpec{},
			&agentv1.Action{Parameters: &agentv1.Action_CancelIsolation{CancelIsolation: &agentv1.CancelIsolation{}}},
		},
		"LiveTerminal": {
			v1alpha1.EndpointActionSpec{LiveTerminal: &v1alpha1.LiveTerminalParameters{User: "me", Command: []v1alpha1.Argument{"top", ""}, IdleTimeoutSeconds: ptr.To[int32](60)}},
			&agentv1.Action{Parameters: &agentv1.Action_LiveTerminal{LiveTerminal: &agentv1.LiveTerminal{
				User: "me", Command: []string{"top", ""}, IdleTimeout: durationpb.New(time.Minute),
			}}},
		},
		"SetEndpointProxy": {
			v1alpha1.EndpointActionSpec{SetEndpointProxy: &v1alpha1.SetEndpointProxyParameters{URL: "http://proxy:3128"}},
			&agentv1.Action{Parameters: &agentv1.Action_SetEndpointProxy{SetEndpointProxy: &agentv1.SetEndpointProxy{Url: "http://proxy:3128"}}},
		},
		"DisableEndpointProxy": {
			v1alpha1.EndpointActionSpec{},
			&agentv1.Action{Parameters: &agentv1.Action_DisableEndpointProxy{DisableEndpointProxy: &agentv1.DisableEndpointProxy{}}},
		},
		"RetrieveFiles": {
			v1alpha1.EndpointActionSpec{RetrieveFiles: &v1alpha1.RetrieveFilesParameters{Paths: []v1alpha1.FilePath{"/var/log/**"}, MaxBytes: ptr.To[int64](1 << 20)}},
			&agentv1.Action{Parameters: &agentv1.Action_RetrieveFiles{RetrieveFiles: &agentv1.RetrieveFiles{Paths: []string{"/var/log/**"}, MaxBytes: 1 << 20}}},
		},
		"RetrieveSecurityEventData": {
			v1alpha1.EndpointActionSpec{RetrieveSecurityEventData: &v1alpha1.RetrieveSecurityEventDataParameters{EventIDs: []v1alpha1.Text{"e1"}}},
			&agentv1.Action{Parameters: &agentv1.Action_RetrieveSecurityEventData{RetrieveSecurityEventData: &agentv1.RetrieveSecurityEventData{EventIds: []string{"e1"}}}},
		},
		"RetrieveSupportFile": {
			v1alpha1.EndpointActionSpec{},
			&agentv1.Action{Parameters: &agentv1.Action_RetrieveSupportFile{RetrieveSupportFile: &agentv1.RetrieveSupportFile{}}},
		},
		"PerformHeartbeat": {
			v1alpha1.EndpointActionSpec{},
			&agentv1.Action{Parameters: &agentv1.Action_PerformHeartbeat{PerformHeartbeat: &agentv1.PerformHeartbeat{}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAction(v1alpha1.ActionType(name))
			tt.spec.Type, tt.spec.EndpointName, tt.spec.Reason = a.Spec.Type, "devbox", "ticket\n4711"
			tt.spec.StartingDeadlineSeconds, tt.spec.ActiveDeadlineSeconds = ptr.To[int32](90), ptr.To[int32](30)
			a.Spec, a.Annotations = tt.spec, map[string]string{v1alpha1.AnnotationRequestedBy: "jane@example.com"}
			tt.want.FleetId, tt.want.IdentityId, tt.want.ActionUid, tt.want.Requires = fleetID, machine, uid, []string{name}
			tt.want.IssuedAt, tt.want.ExpiresAt = timestamppb.New(noon.Add(time.Microsecond)), timestamppb.New(noon.Add(90*time.Second))
			tt.want.ActiveDeadline, tt.want.RequestedBy, tt.want.Reason = durationpb.New(30*time.Second), "jane@example.com", "ticket 4711"
			got := Order(a, fleetID, machine, noon.Add(1999*time.Nanosecond))
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			if err := wire.CheckAction(got); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOrderIsWhatIsSigned: Order says beforehand what an admission signs.
func TestOrderIsWhatIsSigned(t *testing.T) {
	a := admitted(t, terminate)
	signed := &agentv1.Action{}
	if err := envelope.Parse(a.Status.Admission.Order.Payload, signed); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Order(newAction(terminate), fleetID, machine, noon), signed, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestCancelOrder(t *testing.T) {
	a := running(t, terminate)
	a.Spec.Cancel = true
	a = take(t, a, lookAt(devbox(), time.Minute), "17")
	got := &agentv1.Cancel{}
	if err := envelope.Parse(a.Status.Cancellation.Payload, got); err != nil {
		t.Fatal(err)
	}
	want := &agentv1.Cancel{
		FleetId: fleetID, IdentityId: machine, ActionUid: uid, IssuedAt: timestamppb.New(noon.Add(time.Minute)), ExpiresAt: timestamppb.New(noon.Add(time.Hour)),
		ActionDigest: Digest(a.Status.Admission.Order), ActionIssuedAt: timestamppb.New(noon),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if err := wire.CheckCancel(got); err != nil {
		t.Error(err)
	}
}

// drawSpec is any spec that the API takes.
func drawSpec(t *rapid.T) v1alpha1.EndpointActionSpec {
	spec := v1alpha1.EndpointActionSpec{
		Type: rapid.SampledFrom(all).Draw(t, "type"), EndpointName: "devbox", Reason: rapid.StringN(0, 256, -1).Draw(t, "reason"),
		StartingDeadlineSeconds: maybe(rapid.Int32Range(5, 7776000)).Draw(t, "starting"),
		ActiveDeadlineSeconds:   maybe(rapid.Int32Range(1, 86400)).Draw(t, "active"),
	}
	path := rapid.Custom(func(t *rapid.T) v1alpha1.FilePath {
		if rapid.Bool().Draw(t, "long") {
			return v1alpha1.FilePath("/" + strings.Repeat(rapid.SampledFrom([]string{"x", "ü"}).Draw(t, "letter"), rapid.IntRange(0, 4095).Draw(t, "letters")))
		}
		return v1alpha1.FilePath(rapid.StringN(1, 256, -1).Draw(t, "path"))
	})
	digest := rapid.Custom(func(t *rapid.T) v1alpha1.SHA256 {
		return v1alpha1.SHA256(hex.EncodeToString(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest")))
	})
	switch spec.Type {
	case v1alpha1.QuarantineFile:
		spec.QuarantineFile = &v1alpha1.QuarantineFileParameters{Path: path.Draw(t, "path")}
	case v1alpha1.RestoreFile:
		spec.RestoreFile = &v1alpha1.RestoreFileParameters{QuarantineID: rapid.StringN(1, 36, -1).Draw(t, "id")}
	case terminate:
		spec.TerminateProcess = &v1alpha1.TerminateProcessParameters{
			Executable: path.Draw(t, "executable"), SHA256: digest.Draw(t, "sha256"), GracePeriodSeconds: maybe(rapid.Int32Range(0, 300)).Draw(t, "grace"),
		}
		if rapid.Bool().Draw(t, "by pid") {
			at := metav1.NewMicroTime(noon.Add(time.Duration(rapid.Int64().Draw(t, "began"))))
			spec.TerminateProcess.PID, spec.TerminateProcess.StartTime = ptr.To(rapid.Int64Range(2, 4194304).Draw(t, "pid")), &at
		}
	case terminal:
		spec.LiveTerminal = &v1alpha1.LiveTerminalParameters{
			User:    v1alpha1.Text(rapid.StringN(0, 128, -1).Draw(t, "user")),
			Command: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) v1alpha1.Argument { return v1alpha1.Argument(path.Draw(t, "argument")) }), 0, 64).Draw(t, "command"),
		}
	case setProxy:
		spec.SetEndpointProxy = &v1alpha1.SetEndpointProxyParameters{URL: "http://proxy:3128"}
	case v1alpha1.RetrieveFiles:
		spec.RetrieveFiles = &v1alpha1.RetrieveFilesParameters{
			Paths: rapid.SliceOfN(path, 1, 32).Draw(t, "paths"), MaxBytes: maybe(rapid.Int64Range(1, 10737418240)).Draw(t, "bytes"),
		}
	case v1alpha1.RetrieveSecurityEventData:
		spec.RetrieveSecurityEventData = &v1alpha1.RetrieveSecurityEventDataParameters{EventIDs: []v1alpha1.Text{v1alpha1.Text(rapid.StringN(1, 128, -1).Draw(t, "event"))}}
	}
	return spec
}

func maybe[T any](g *rapid.Generator[T]) *rapid.Generator[*T] {
	return rapid.Custom(func(t *rapid.T) *T {
		if rapid.Bool().Draw(t, "given") {
			return ptr.To(g.Draw(t, "value"))
		}
		return nil
	})
}

// TestOrdersKeepToTheProtocol: whatever the API takes is either signed within the bounds of the protocol, or ends at once and says why.
func TestOrdersKeepToTheProtocol(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := newAction(heartbeat)
		a.Spec = drawSpec(t)
		a.Annotations = map[string]string{v1alpha1.AnnotationRequestedBy: rapid.StringN(0, 1000, -1).Draw(t, "requested-by")}
		after := take(t, a, lookAt(devbox(), 0), rowOfAdmission(a))
		if after.Status.Admission == nil {
			return
		}
		got := &agentv1.Action{}
		if err := errors.Join(envelope.Parse(after.Status.Admission.Order.Payload, got), wire.CheckAction(got)); err != nil {
			t.Fatal(err)
		}
		if n := len(after.Status.Admission.Order.Payload); n > envelope.Action.MaxPayload() || !proto.Equal(got, Order(a, fleetID, machine, noon)) {
			t.Fatalf("an order of %d bytes: %v", n, got)
		}
	})
}

// rowOfAdmission says whether the protocol can carry an action.
func rowOfAdmission(a *v1alpha1.EndpointAction) Arrow {
	order := Order(a, fleetID, machine, noon)
	if _, err := sealBy(keyOf("orders"))(envelope.Action, order); err != nil || wire.CheckAction(order) != nil {
		return "4"
	}
	return "2"
}
