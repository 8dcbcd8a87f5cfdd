package node

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Image is a container image of one static program, for a user that is not root.
type Image struct {
	// Name with a tag, such as rollcall.local/pause:1.
	Name string
	// Program is the file that becomes the entrypoint, at / under its own name.
	Program string
}

// imageUser is that of the Dockerfile.
const imageUser = "65532:65532"

// Write makes a docker-archive at path, which ctr imports and no registry is needed for.
func (i Image) Write(path string) error {
	layer := path + ".layer"
	defer os.RemoveAll(layer)
	entrypoint := "/" + filepath.Base(i.Program)
	if err := archive(layer, map[string]string{entrypoint[1:]: i.Program}, 0o755); err != nil {
		return fmt.Errorf("pack %s: %w", i.Name, err)
	}
	sum, err := sumOf(layer)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"User": imageUser, "Entrypoint": []string{entrypoint}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	parts := map[string]string{"layer.tar": layer}
	for name, content := range map[string][]byte{"config.json": config, "manifest.json": manifest} {
		file := path + "." + name
		defer os.RemoveAll(file)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return err
		}
		parts[name] = file
	}
	return archive(path, parts, 0o644)
}

// archive makes a tar of files, by their names in it.
func archive(path string, files map[string]string, mode int64) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	for name, file := range files {
		if err = add(w, name, file, mode); err != nil {
			break
		}
	}
	for _, end := range []func() error{w.Close, out.Close} {
		if endErr := end(); err == nil {
			err = endErr
		}
	}
	return err
}

func add(w *tar.Writer, name, file string, mode int64) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
