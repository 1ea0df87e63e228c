package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	neturl "net/url"
	"os"
	"path"
	"path/filepath"
	"time"
)

var (
	attempts   = 4
	firstPause = time.Second // doubled after each failed attempt
	stallLimit = time.Minute // without a byte
)

// fetchArchive downloads spec.ArchiveURL into the cache and returns the file.
// A cut connection is resumed where the server can. A sha256 is checked here, a tree by who reads it.
func fetchArchive(ctx context.Context, spec Spec, opt Options) (string, error) {
	sum := sha256.Sum256([]byte(spec.ArchiveURL + " " + spec.ArchiveSHA256 + " " + spec.Tree))
	suffix := ".tar.gz"
	if path.Ext(spec.ArchiveURL) == ".zip" {
		suffix = ".zip"
	}
	file := filepath.Join(opt.CacheDir, "sources", "archives", hex.EncodeToString(sum[:16])+suffix)
	pinned := spec.ArchiveSHA256 != "" || spec.Tree != ""
	if _, err := os.Stat(file); err == nil && pinned {
		return file, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	part, err := os.CreateTemp(filepath.Dir(file), ".part-")
	if err != nil {
		return "", err
	}
	defer os.Remove(part.Name())
	defer part.Close()
	opt.log("fetching %s", redact(spec.ArchiveURL))
	if err := download(ctx, part, spec.ArchiveURL, opt); err != nil {
		return "", fmt.Errorf("fetch %s: %w", redact(spec.ArchiveURL), err)
	}
	if err := part.Close(); err != nil {
		return "", err
	}
	if spec.ArchiveSHA256 != "" && spec.Tree == "" {
		got, err := fileSHA256(part.Name())
		if err != nil {
			return "", err
		}
		if got != spec.ArchiveSHA256 {
			return "", fmt.Errorf("fetch %s: wrong checksum: its sha256 is %s, the pinned one %s", redact(spec.ArchiveURL), got, spec.ArchiveSHA256)
		}
	}
	return file, os.Rename(part.Name(), file)
}

// permanent wraps an error that a retry would not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func download(ctx context.Context, to *os.File, url string, opt Options) error {
	client := opt.Client
	if client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = 30 * time.Second
		t.DialContext = (&net.Dialer{Timeout: 15 * time.Second}).DialContext
		client = &http.Client{Transport: t}
	}
	var err error
	pause := firstPause
	etag := ""
	for i := range attempts {
		if i > 0 {
			opt.log("%v: trying again", err)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause):
				pause *= 2
			}
		}
		var final permanent
		if err = attempt(ctx, client, to, url, &etag, opt.Progress); err == nil || errors.As(err, &final) || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("gave up after %d attempts: %w", attempts, err)
}

func attempt(ctx context.Context, client *http.Client, to *os.File, url string, etag *string, report func(Progress)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return permanent{err}
	}
	have, err := to.Seek(0, io.SeekEnd)
	if err != nil {
		return permanent{err}
	}
	if have > 0 && *etag != "" {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		req.Header.Set("If-Range", *etag)
	}
	resp, err := client.Do(req)
	if web := (*neturl.Error)(nil); errors.As(err, &web) {
		err = web.Err // the caller names the address
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		return permanent{err}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent:
	case resp.StatusCode == http.StatusOK:
		have = 0
		if err := to.Truncate(0); err != nil {
			return permanent{err}
		}
		if _, err := to.Seek(0, io.SeekStart); err != nil {
			return permanent{err}
		}
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("the server answers %s", resp.Status)
	default:
		return permanent{fmt.Errorf("the server answers %s", resp.Status)}
	}
	*etag = resp.Header.Get("ETag")
	total := int64(0)
	if resp.ContentLength > 0 {
		total = have + resp.ContentLength
	}
	stall := time.AfterFunc(stallLimit, func() { cancel(fmt.Errorf("nothing came for %v", stallLimit)) })
	defer stall.Stop()
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			stall.Reset(stallLimit)
			if _, err := to.Write(buf[:n]); err != nil {
				return permanent{err}
			}
			have += int64(n)
			if report != nil {
				report(Progress{URL: url, Done: have, Total: total})
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
	}
}
