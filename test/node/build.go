//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/rollcall-dev/rollcall/hack/node"
)

// Images that the node has, under names that no registry has.
const (
	managerImage = "rollcall.local/rollcall-manager:test"
	gatewayImage = "rollcall.local/rollcall-gateway:test"
)

// programs are built for the node, static, as the Dockerfile builds them.
var programs = map[string]string{
	"rollcall-manager": "./cmd/manager",
	"rollcall-gateway": "./cmd/gateway",
	"rollcall-agent":   "./cmd/agent",
	"fleetsim":         "./cmd/fleetsim",
	"pause":            "./hack/node/pause",
}

type builder struct {
	root, dir string
	out       io.Writer
}

func (b builder) bin(name string) string { return filepath.Join(b.dir, "bin", name) }

// image is the archive of an image.
func image(dir, name string) string { return filepath.Join(dir, "images", name+".tar") }

func (b builder) build(ctx context.Context) error {
	if err := errors.Join(os.Mkdir(filepath.Join(b.dir, "bin"), 0o755), os.Mkdir(filepath.Join(b.dir, "images"), 0o755)); err != nil {
		return err
	}
	s := steps{b.out}
	if err := s.do("programs", func() (string, error) {
		for name, pkg := range programs {
			if err := b.command(ctx, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.bin(name), pkg); err != nil {
				return "", err
			}
		}
		return "built, static", node.PauseImage(b.bin("pause")).Write(image(b.dir, "pause"))
	}); err != nil {
		return err
	}
	return s.do("images", func() (string, error) {
		for _, program := range []string{"buildah", busybox} {
			if _, err := exec.LookPath(program); err != nil {
				how, err := b.pack()
				return how + ": for the Dockerfile apt-get install -y buildah busybox-static", err
			}
		}
		return b.fromDockerfile(ctx)
	})
}

// busybox is a shell without libraries, for the base that the Dockerfile's build runs on.
const busybox = "/bin/busybox"

// fromDockerfile makes the images as a release would, but on bases of this machine: nothing is pulled.
func (b builder) fromDockerfile(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	h := buildah{builder: b, dir: filepath.Join(cache, "rollcall", "images")}
	if err := os.MkdirAll(filepath.Join(h.dir, "tmp"), 0o700); err != nil {
		return "", err
	}
	base, err := h.base(ctx)
	if err != nil {
		return "", err
	}
	for program, name := range map[string]string{"rollcall-manager": managerImage, "rollcall-gateway": gatewayImage} {
		if _, err := h.run(ctx, "bud", "--quiet", "--isolation=chroot", "--pull-never", "--build-arg=BUILD_BASE="+base, "--build-arg=RUN_BASE=scratch",
			"--target="+strings.TrimPrefix(program, "rollcall-"), "--tag="+name, b.root); err != nil {
			return "", err
		}
		if _, err := h.run(ctx, "push", "--quiet", "--disable-compression", name, "docker-archive:"+image(b.dir, program)+":"+name); err != nil {
			return "", err
		}
	}
	_, err = h.run(ctx, "rmi", "--prune", "--force") // what the tags were on before
	return "built from the Dockerfile", err
}

// buildah keeps what it needs for the next time in dir, and nothing anywhere else.
type buildah struct {
	builder
	dir string
}

func (h buildah) run(ctx context.Context, args ...string) (string, error) {
	args = append([]string{"--root=" + h.dir + "/store", "--runroot=" + h.dir + "/run", "--storage-driver=overlay"}, args...)
	cmd := exec.CommandContext(ctx, "buildah", args...)
	cmd.Dir, cmd.Env = h.root, append(os.Environ(), "TMPDIR="+h.dir+"/tmp")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("buildah %s: %w\n%s", strings.Join(args, " "), err, errOut.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// base is the name of an image with this machine's Go and its authorities, in place of golang:1.26. It is made once for each version of Go.
func (h buildah) base(ctx context.Context) (string, error) {
	name := "localhost/rollcall-build:" + runtime.Version()
	if found, err := h.run(ctx, "images", "--quiet", "--filter=reference="+name); err != nil || found != "" {
		return name, err
	}
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	empty := filepath.Join(h.builder.dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		return "", err
	}
	container, err := h.run(ctx, "from", "scratch")
	if err != nil {
		return "", err
	}
	const authorities = "/etc/ssl/certs/ca-certificates.crt"
	for _, step := range [][]string{
		{"copy", "--quiet", container, strings.TrimSpace(string(goroot)), "/usr/local/go"},
		{"copy", "--quiet", container, busybox, "/bin/sh"},
		{"copy", "--quiet", container, authorities, authorities},
		{"copy", "--quiet", "--chmod=1777", container, empty, "/tmp"},
		{"config", "--env=PATH=/usr/local/go/bin:/bin", "--env=GOPATH=/go", "--env=GOTOOLCHAIN=local", "--env=HOME=/root", container},
		{"commit", "--quiet", "--rm", container, name},
	} {
		if _, err := h.run(ctx, step...); err != nil {
			return "", err
		}
	}
	return name, nil
}

// pack makes the images of the programs alone.
func (b builder) pack() (string, error) {
	for program, name := range map[string]string{"rollcall-manager": managerImage, "rollcall-gateway": gatewayImage} {
		if err := (node.Image{Name: name, Program: b.bin(program)}).Write(image(b.dir, program)); err != nil {
			return "", err
		}
	}
	return "packed from the programs", nil
}

func (b builder) command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = b.root, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
