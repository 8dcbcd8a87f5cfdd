package action

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/utils/ptr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Topics are what several types of action are about: an agent obeys the newest order on each, and none that is older.
const (
	TopicIsolation = "isolation"
	TopicProxy     = "proxy"
)

// TopicOf a type of action; empty for those that stand by themselves.
func TopicOf(t v1alpha1.ActionType) string {
	switch t {
	case v1alpha1.IsolateEndpoint, v1alpha1.CancelIsolation:
		return TopicIsolation
	case v1alpha1.SetEndpointProxy, v1alpha1.DisableEndpointProxy:
		return TopicProxy
	default:
		return ""
	}
}

// Digest names an order in what is said of it: the SHA-256 of its payload, in lower-case hexadecimal.
func Digest(order v1alpha1.Envelope) string {
	sum := sha256.Sum256(order.Payload)
	return hex.EncodeToString(sum[:])
}

// Order is what an action asks of an agent, as the manager signs it, for the identity and from the moment of its admission.
func Order(a *v1alpha1.EndpointAction, fleetID, identityID string, admitted time.Time) *agentv1.Action {
	return makeOrder(a, fleetID, &v1alpha1.ActionAdmission{
		IdentityID: identityID, Time: micro(admitted), StartingDeadline: second(startingDeadline(a, admitted)),
	})
}

func makeOrder(a *v1alpha1.EndpointAction, fleetID string, admission *v1alpha1.ActionAdmission) *agentv1.Action {
	m := &agentv1.Action{
		FleetId: fleetID, IdentityId: admission.IdentityID, ActionUid: string(a.UID),
		IssuedAt: timestamppb.New(admission.Time.Time), ExpiresAt: timestamppb.New(admission.StartingDeadline.Time),
		Requires: []string{string(a.Spec.Type)}, ActiveDeadline: durationpb.New(activeTime(&a.Spec)),
		RequestedBy: wire.CutText(a.Annotations[v1alpha1.AnnotationRequestedBy], wire.MaxText), Reason: wire.CutText(a.Spec.Reason, wire.MaxText),
	}
	setParameters(m, &a.Spec)
	return m
}

// setParameters says what to do. The API lets no action through without the block of its type; what is absent says the least here.
func setParameters(m *agentv1.Action, spec *v1alpha1.EndpointActionSpec) {
	switch spec.Type {
	case v1alpha1.QuarantineFile:
		p := ptr.Deref(spec.QuarantineFile, v1alpha1.QuarantineFileParameters{})
		m.Parameters = &agentv1.Action_QuarantineFile{QuarantineFile: &agentv1.QuarantineFile{Path: string(p.Path), Sha256: string(p.SHA256)}}
	case v1alpha1.RestoreFile:
		p := ptr.Deref(spec.RestoreFile, v1alpha1.RestoreFileParameters{})
		m.Parameters = &agentv1.Action_RestoreFile{RestoreFile: &agentv1.RestoreFile{
			QuarantineId: p.QuarantineID, Path: string(p.Path), Overwrite: p.Overwrite == v1alpha1.OverwriteAlways,
		}}
	case v1alpha1.TerminateProcess:
		m.Parameters = &agentv1.Action_TerminateProcess{TerminateProcess: terminateProcess(spec.TerminateProcess)}
	case v1alpha1.IsolateEndpoint:
		p := ptr.Deref(spec.IsolateEndpoint, v1alpha1.IsolateEndpointParameters{})
		m.Parameters = &agentv1.Action_IsolateEndpoint{IsolateEndpoint: &agentv1.IsolateEndpoint{Allow: texts(p.Allow)}}
	case v1alpha1.CancelIsolation:
		m.Parameters = &agentv1.Action_CancelIsolation{CancelIsolation: &agentv1.CancelIsolation{}}
	case v1alpha1.LiveTerminal:
		p := ptr.Deref(spec.LiveTerminal, v1alpha1.LiveTerminalParameters{})
		m.Parameters = &agentv1.Action_LiveTerminal{LiveTerminal: &agentv1.LiveTerminal{
			User: string(p.User), Command: texts(p.Command), IdleTimeout: seconds(p.IdleTimeoutSeconds),
		}}
	case v1alpha1.SetEndpointProxy:
		p := ptr.Deref(spec.SetEndpointProxy, v1alpha1.SetEndpointProxyParameters{})
		m.Parameters = &agentv1.Action_SetEndpointProxy{SetEndpointProxy: &agentv1.SetEndpointProxy{Url: string(p.URL)}}
	case v1alpha1.DisableEndpointProxy:
		m.Parameters = &agentv1.Action_DisableEndpointProxy{DisableEndpointProxy: &agentv1.DisableEndpointProxy{}}
	case v1alpha1.RetrieveFiles:
		p := ptr.Deref(spec.RetrieveFiles, v1alpha1.RetrieveFilesParameters{})
		m.Parameters = &agentv1.Action_RetrieveFiles{RetrieveFiles: &agentv1.RetrieveFiles{
			Paths: texts(p.Paths), MaxBytes: uint64(ptr.Deref(p.MaxBytes, 0)), //nolint:gosec // 1 to 10 GiB by the API
		}}
	case v1alpha1.RetrieveSecurityEventData:
		p := ptr.Deref(spec.RetrieveSecurityEventData, v1alpha1.RetrieveSecurityEventDataParameters{})
		m.Parameters = &agentv1.Action_RetrieveSecurityEventData{RetrieveSecurityEventData: &agentv1.RetrieveSecurityEventData{EventIds: texts(p.EventIDs)}}
	case v1alpha1.RetrieveSupportFile:
		m.Parameters = &agentv1.Action_RetrieveSupportFile{RetrieveSupportFile: &agentv1.RetrieveSupportFile{}}
	case v1alpha1.PerformHeartbeat:
		m.Parameters = &agentv1.Action_PerformHeartbeat{PerformHeartbeat: &agentv1.PerformHeartbeat{}}
	}
}

func terminateProcess(p *v1alpha1.TerminateProcessParameters) *agentv1.TerminateProcess {
	if p == nil {
		return &agentv1.TerminateProcess{}
	}
	m := &agentv1.TerminateProcess{
		Pid:        uint32(ptr.Deref(p.PID, 0)), //nolint:gosec // 2 to 4194304 by the API
		Executable: string(p.Executable), Sha256: string(p.SHA256), Tree: p.Scope == v1alpha1.ScopeTree, Grace: seconds(p.GracePeriodSeconds),
	}
	if p.StartTime != nil {
		m.StartTime = timestamppb.New(p.StartTime.Time)
	}
	return m
}

// makeCancel takes back what an admission ordered.
func makeCancel(a *v1alpha1.EndpointAction, fleetID string, now time.Time) *agentv1.Cancel {
	admission := a.Status.Admission
	return &agentv1.Cancel{
		FleetId: fleetID, IdentityId: admission.IdentityID, ActionUid: string(a.UID), IssuedAt: timestamppb.New(now),
		ExpiresAt: timestamppb.New(admission.StartingDeadline.Time), ActionDigest: Digest(admission.Order),
		ActionIssuedAt: timestamppb.New(admission.Time.Time),
	}
}

func texts[T ~string](items []T) []string {
	var out []string
	for _, item := range items {
		out = append(out, string(item))
	}
	return out
}

func seconds(s *int32) *durationpb.Duration {
	if s == nil {
		return nil
	}
	return durationpb.New(time.Duration(*s) * time.Second)
}
