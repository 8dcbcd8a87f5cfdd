package heartbeat

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// What an agent says is turned here into what is written of it: cut to the bounds of the API, and rounded, so that what does not matter is no
// reason to write. Messages have passed wire.CheckHeartbeat.

const (
	maxText         = 128 // v1alpha1.Text
	maxMessage      = 256
	maxCapabilities = 32
	maxAddresses    = 8
	memoryStep      = 64 // MiB
	skewStep        = 10 // seconds
)

// agentBlock is status.agent. skew is the clock skew that was reported last, in seconds.
func agentBlock(m *agentv1.Heartbeat, capabilities []v1alpha1.Text, skew int32) *v1alpha1.EndpointAgent {
	a, s := m.GetAgent(), m.GetState()
	out := &v1alpha1.EndpointAgent{
		Version:        text(a.GetVersion()),
		ContentVersion: text(m.GetContent().GetVersion()),
		ContentError:   failure(m.GetContent()),
		UpgradeError:   failure(m.GetAgentRelease()),
		PolicyID:       m.GetPolicyId(),
		PolicyRevision: number(m.GetPolicyRevision()),
		Capabilities:   capabilities,
		JournalID:      a.GetJournalId(),
		JournalFull:    m.GetJournalFull(),
		RejectedOrders: number(m.GetRejectedOrders()),
		LastRejection:  text(m.GetLastRejection()),
		TrustVersion:   number(m.GetTrustVersion()),
	}
	if t := a.GetJournalCreatedAt(); t != nil {
		out.JournalTime = &metav1.MicroTime{Time: t.AsTime().Truncate(time.Microsecond)}
	}
	if rounded := roundSkew(m.GetClockSkew().AsDuration(), skew); rounded != 0 {
		out.ClockSkewSeconds = &rounded
	}
	if s == nil {
		return out
	}
	out.Isolation = v1alpha1.Released
	if s.GetIsolated() {
		out.Isolation = v1alpha1.Isolated
	}
	out.IsolationActionUID, out.ProxyActionUID, out.Proxy = s.GetIsolationActionUid(), s.GetProxyActionUid(), text(s.GetProxyUrl())
	out.Quarantined = int32(min(s.GetQuarantinedFiles(), math.MaxInt32))
	out.Quarantine = quarantine(s.GetQuarantine())
	return out
}

// failure is why a release was not applied, or was taken back; empty otherwise.
func failure(r *agentv1.ReleaseState) string {
	switch r.GetPhase() {
	case agentv1.ReleasePhase_RELEASE_PHASE_FAILED, agentv1.ReleasePhase_RELEASE_PHASE_ROLLED_BACK:
		return wire.CutText(cmp.Or(r.GetReason(), "Failed")+": "+cmp.Or(r.GetMessage(), "the agent gave no reason"), maxMessage)
	default:
		return ""
	}
}

// roundSkew rounds to whole steps, and to nothing below one. It stays what it was while it is less than a step from that: a skew that is
// just between two steps would otherwise be written with every heartbeat.
func roundSkew(d time.Duration, before int32) int32 {
	seconds := d.Seconds()
	if math.Abs(seconds) < skewStep {
		return 0
	}
	if before != 0 && math.Abs(seconds-float64(before)) < skewStep {
		return before
	}
	limit := float64(math.MaxInt32 / skewStep * skewStep)
	return int32(max(-limit, min(limit, math.Round(seconds/skewStep)*skewStep)))
}

// capabilityNames are the names in order, each once.
func capabilityNames(c *agentv1.Capabilities) []v1alpha1.Text {
	names := make([]v1alpha1.Text, 0, len(c.GetNames()))
	for _, n := range c.GetNames() {
		names = append(names, text(n))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxCapabilities)]
}

func quarantine(files []*agentv1.FileResult) (out []v1alpha1.QuarantinedFile) {
	seen := map[string]bool{}
	for _, f := range files {
		if seen[f.GetQuarantineId()] || len(out) == wire.MaxQuarantine {
			continue
		}
		seen[f.GetQuarantineId()] = true
		out = append(out, v1alpha1.QuarantinedFile{
			ID: f.GetQuarantineId(), Path: wire.CutText(f.GetPath(), maxMessage), SHA256: v1alpha1.SHA256(f.GetSha256()),
			QuarantinedTime: metav1.Time{Time: wholeSecond(f.GetQuarantinedAt())},
		})
	}
	return out
}

// inventoryBlock is status.inventory.
func inventoryBlock(m *agentv1.Heartbeat) *v1alpha1.EndpointInventory {
	i := m.GetInventory()
	out := &v1alpha1.EndpointInventory{
		Hostname:  text(i.GetHostname()),
		MachineID: text(m.GetAgent().GetMachineId()),
		Addresses: addresses(i.GetInterfaces()),
		CPUs:      int32(min(i.GetCpuCount(), wire.MaxCPUs)),
		MemoryMiB: memory(i.GetMemoryTotal()),
		Model:     text(i.GetModel()),
	}
	os := v1alpha1.EndpointOS{Name: text(i.GetOsName()), Version: text(i.GetOsVersion()), Kernel: text(i.GetKernel()), Arch: text(i.GetArch())}
	if os != (v1alpha1.EndpointOS{}) {
		out.OS = &os
	}
	if t := i.GetBootTime(); t != nil {
		out.BootTime = &metav1.Time{Time: wholeSecond(t)}
	}
	return out
}

// addresses are those by which others may reach the machine, the first few of them.
func addresses(interfaces []*agentv1.NetworkInterface) (out []v1alpha1.Text) {
	for _, i := range interfaces {
		for _, s := range i.GetAddresses() {
			a, err := netip.ParseAddr(s)
			if p, prefixErr := netip.ParsePrefix(s); prefixErr == nil {
				a, err = p.Addr(), nil
			}
			if err != nil || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
				continue
			}
			one := v1alpha1.Text(a.WithZone("").String())
			if !slices.Contains(out, one) && len(out) < maxAddresses {
				out = append(out, one)
			}
		}
	}
	return out
}

func memory(bytes uint64) int64 {
	mib := (bytes>>20 + memoryStep/2) / memoryStep * memoryStep
	return int64(mib)
}

func text(s string) v1alpha1.Text { return v1alpha1.Text(wire.CutText(s, maxText)) }

func number(n uint64) int64 { return int64(min(n, wire.MaxNumber)) }

func wholeSecond(t *timestamppb.Timestamp) time.Time { return t.AsTime().Truncate(time.Second) }
