//go:build linux

package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// Address of the node, on a cable whose other end nobody has.
const Address = "10.250.0.2"

// init comes before main and before flags, so that any program that imports this package can be the first process of its namespaces.
func init() {
	if os.Getenv(stageEnv) != stageInit {
		return
	}
	dir := os.Getenv(dirEnv)
	if err := prepare(dir); err != nil {
		fmt.Fprintln(os.Stderr, "make the node's namespaces:", err)
		os.Exit(1)
	}
	os.Exit(first())
}

// prepare makes mounts and network.
func prepare(dir string) error {
	for _, step := range []func(string) error{files, settings, network} {
		if err := step(dir); err != nil {
			return err
		}
	}
	return syscall.Sethostname([]byte("node"))
}

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

// files gives the node a /proc, /sys and /run of its own, and covers what its programs write at fixed paths.
func files(dir string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("part with the machine's mounts: %w", err)
	}
	controllers, err := os.ReadDir(cgroups)
	if err != nil {
		return err
	}
	mounts := []mount{
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"tmpfs", cgroups, "tmpfs", 0, "mode=755"},
	}
	for _, c := range controllers {
		switch name := c.Name(); name {
		case "unified":
		case "systemd":
			mounts = append(mounts, mount{"cgroup", filepath.Join(cgroups, name), "cgroup", 0, "none,name=systemd"})
		default:
			mounts = append(mounts, mount{"cgroup", filepath.Join(cgroups, name), "cgroup", 0, name})
		}
	}
	for _, d := range []string{"log/pods", "over/upper", "over/work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	mounts = append(mounts,
		mount{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
		mount{filepath.Join(dir, "log/pods"), "/var/log", "", syscall.MS_BIND, ""},
		mount{"overlay", "/var/lib", "overlay", 0, "lowerdir=/var/lib,upperdir=" + filepath.Join(dir, "over/upper") + ",workdir=" + filepath.Join(dir, "over/work")},
	)
	_ = syscall.Unmount(cgroups, syscall.MNT_DETACH) // the machine's, in this namespace alone
	for _, m := range mounts {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// settings of the kernel that the kubelet wants. Those that have no namespace stay the machine's: it is shown files that say so.
func settings(dir string) error {
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		file := filepath.Join(dir, "over", strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			return err
		}
		if err := syscall.Mount(file, "/proc/sys/"+name, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("show %s: %w", name, err)
		}
	}
	return nil
}

func network(string) error {
	for _, command := range []string{
		"ip link set lo up",
		"ip link add eth0 type veth peer name nowhere",
		"ip address add " + Address + "/24 dev eth0",
		"ip link set eth0 up",
		"ip link set nowhere up",
		"ip route add default via 10.250.0.1 dev eth0", // nobody is there, but Services' addresses need a route before they are rewritten
		"ip link add cni0 type bridge",
		"ip link set cni0 up",
	} {
		words := strings.Fields(command)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(string(out)))
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600); err != nil {
		return err
	}
	// where bridged traffic passes the filters at all
	if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// first is the namespace's first process: it starts the program once more, passes signals on, waits for everybody whose parent has died, and
// ends with the program, which ends everything else.
func first() int {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	err := os.Setenv(stageEnv, stageInside)
	var p *os.Process
	if err == nil {
		p, err = os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start in the node's namespaces:", err)
		return 1
	}
	go func() {
		for range told {
			_ = syscall.Kill(p.Pid, syscall.SIGTERM)
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1
		case pid == p.Pid && status.Exited():
			return status.ExitStatus()
		case pid == p.Pid:
			return 1
		}
	}
}
