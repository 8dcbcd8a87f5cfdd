// Package host gathers what an agent tells of its machine. What differs by platform is in one file for each.
package host

import (
	"cmp"
	"context"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Platform of this build, for instance linux/amd64.
const Platform = runtime.GOOS + "/" + runtime.GOARCH

// Machine is the machine that the agent runs on. A fact that cannot be had is left out; nothing here fails.
type Machine struct {
	boot        func() time.Duration
	id, bootID  string
	model       string
	stateDir    string
	bootTime    time.Time
	started     time.Time
	cpuModel    string
	information host.InfoStat
}

// This is the real machine. stateDir tells which disk the vitals speak of.
func This(ctx context.Context, stateDir string) *Machine {
	m := &Machine{boot: boottime, started: time.Now(), id: hashed(machineID()), bootID: hashed(bootID()), model: text(model()), stateDir: stateDir}
	if i, err := host.InfoWithContext(ctx); err == nil {
		m.information = *i
	}
	if c, err := cpu.InfoWithContext(ctx); err == nil && len(c) > 0 {
		m.cpuModel = c[0].ModelName
	}
	// Once: computed again, it would move with the wall clock.
	m.bootTime = time.Now().Add(-boottime()).Truncate(time.Second)
	return m
}

// Clock reads the machine's clocks.
func (m *Machine) Clock() liveness.Reading {
	now := time.Now()
	return liveness.Reading{Wall: now, Boot: m.boot(), Awake: now.Sub(m.started)}
}

// IDs are hashed: they tell machines and boots apart and say nothing else. Empty where the machine has none.
func (m *Machine) IDs() (machine, boot string) { return m.id, m.bootID }

// Hostname as the machine calls itself now.
func (m *Machine) Hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return wire.CutText(name, wire.MaxHostname)
}

// Inventory is what changes seldom. Free space on disks is given too, but is no change.
func (m *Machine) Inventory(ctx context.Context) *agentv1.Inventory {
	i := &agentv1.Inventory{
		Hostname: m.Hostname(), OsName: text(m.information.Platform), OsVersion: text(m.information.PlatformVersion),
		Kernel: text(m.information.KernelVersion), Arch: runtime.GOARCH, CpuModel: text(m.cpuModel), CpuCount: uint32(runtime.NumCPU()), //nolint:gosec // far below
		Model: m.model, BootTime: timestamppb.New(m.bootTime), Interfaces: interfaces(), Disks: disks(ctx),
	}
	if v, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		i.MemoryTotal = v.Total
	}
	for i.SizeVT() > wire.MaxInventoryBytes && len(i.Interfaces) > 0 { // 32 interfaces with 16 addresses each would be more
		i.Interfaces = i.Interfaces[:len(i.Interfaces)-1]
	}
	return i
}

// Vitals change with every heartbeat.
func (m *Machine) Vitals(ctx context.Context) *agentv1.Vitals {
	v := &agentv1.Vitals{Uptime: durationpb.New(m.boot())}
	if s, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		v.MemoryTotal, v.MemoryAvailable = s.Total, s.Available
	}
	if s, err := disk.UsageWithContext(ctx, m.stateDir); err == nil {
		v.DiskTotal, v.DiskFree = s.Total, s.Free
	}
	if s, err := load.AvgWithContext(ctx); err == nil && s.Load1 >= 0 {
		v.Load1 = s.Load1
	}
	return v
}

// interfaces that carry an address by which somebody could reach the machine; containers' come and go with link-local ones alone.
func interfaces() []*agentv1.NetworkInterface {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []*agentv1.NetworkInterface
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			continue
		}
		n := &agentv1.NetworkInterface{Name: text(i.Name), Mac: i.HardwareAddr.String()}
		for _, a := range addresses {
			ip, ok := a.(*net.IPNet)
			if ok && !ip.IP.IsLinkLocalUnicast() && len(n.Addresses) < wire.MaxAddresses {
				n.Addresses = append(n.Addresses, ip.IP.String())
			}
		}
		if len(n.Addresses) > 0 && n.Name != "" {
			slices.Sort(n.Addresses)
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *agentv1.NetworkInterface) int { return cmp.Compare(a.Name, b.Name) })
	return out[:min(len(out), wire.MaxInterfaces)]
}

// disks are the file systems on real devices, each device once.
func disks(ctx context.Context) []*agentv1.Disk {
	partitions, err := disk.PartitionsWithContext(ctx, false)
	if err != nil {
		return nil
	}
	var out []*agentv1.Disk
	seen := map[string]bool{}
	for _, p := range partitions {
		usage, err := disk.UsageWithContext(ctx, p.Mountpoint)
		if err != nil || usage.Total == 0 || seen[p.Device] || text(p.Mountpoint) == "" || len(out) == wire.MaxDisks {
			continue
		}
		seen[p.Device] = true
		out = append(out, &agentv1.Disk{Mount: text(p.Mountpoint), Filesystem: text(p.Fstype), Total: usage.Total, Free: usage.Free})
	}
	slices.SortFunc(out, func(a, b *agentv1.Disk) int { return cmp.Compare(a.Mount, b.Mount) })
	return out
}

func hashed(id string) string {
	if strings.TrimSpace(id) == "" {
		return ""
	}
	return identity.HashMachineID(id)
}

func text(s string) string { return wire.CutText(strings.TrimSpace(s), wire.MaxText) }

// firstFile is the content of the first file that has any.
func firstFile(names ...string) string {
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && len(strings.TrimSpace(string(b))) > 0 {
			return strings.TrimRight(string(b), "\x00\n ")
		}
	}
	return ""
}

// BootTime is when the machine booted, by its wall clock when the agent started.
func (m *Machine) BootTime() time.Time { return m.bootTime }
