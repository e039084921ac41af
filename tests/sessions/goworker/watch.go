package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// errUnknown says that the sidecar does not know this process any more: others have its calls, or will.
var errUnknown = errors.New("unknown")

// Watched is this process as a sidecar on this machine knows it. It is all that an omnivoice worker needs so that its calls are
// given to others when it dies: how it saves them stays as it is.
type Watched struct {
	http     *http.Client
	Instance string `json:"instance"`
	Token    string `json:"worker_token"`
}

// watch registers this process under its stable name and keeps its stream open. over is called when another worker has a session,
// or will have all of them (""): then it may not be saved any more. After the latter the safest is to exit.
func watch(socket, name string, over func(session, reason string)) (*Watched, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	w := &Watched{http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
	// It takes no offers (capacity 0): a worker of another kind is its heir. Its end is seen by the end of its stream.
	if err := w.ask("POST", "/v1/workers", map[string]any{"name": name, "capacity": 0}, w); err != nil {
		return nil, err
	}
	stream, err := w.events()
	if err != nil {
		return nil, err
	}
	go func() {
		for err == nil {
			if reason := w.read(stream, over); reason != "" {
				over("", reason)
				return
			}
			for stream, err = w.events(); err != nil && !errors.Is(err, errUnknown); stream, err = w.events() {
				time.Sleep(100 * time.Millisecond) // the sidecar is being started again
			}
		}
		over("", err.Error())
	}()
	return w, nil
}

func (w *Watched) events() (*http.Response, error) {
	return w.do("GET", "/v1/workers/"+w.Instance+"/events", nil)
}

// read answers pings until the stream ends, or until this process is taken for dead: then it says why.
func (w *Watched) read(stream *http.Response, over func(session, reason string)) string {
	defer stream.Body.Close()
	for lines := bufio.NewScanner(stream.Body); lines.Scan(); {
		var event struct{ Event, Session, Reason string }
		_ = json.Unmarshal(lines.Bytes(), &event)
		switch event.Event {
		case "ping": // the answer says that this process turns over
			go w.ask("POST", "/v1/workers/"+w.Instance+"/alive", map[string]any{}, nil)
		case "lost":
			over(event.Session, event.Reason)
		case "joined", "ended":
			return event.Event + ": " + event.Reason
		}
	}
	return ""
}

// bind says that this process serves the session that it saves under this id.
func (w *Watched) bind(id string) error {
	return w.ask("PUT", "/v1/sessions/"+url.PathEscape(id), map[string]any{"recovery_data": map[string]any{}}, nil)
}

// done says that the call ended, after its last save.
func (w *Watched) done(id string) error {
	var session struct{ Epoch json.Number }
	if err := w.ask("GET", "/v1/sessions/"+url.PathEscape(id), nil, &session); err != nil {
		return err
	}
	return w.ask("DELETE", "/v1/sessions/"+url.PathEscape(id), nil, nil, "If-Match", `"`+session.Epoch.String()+`"`)
}

func (w *Watched) ask(method, path string, body, out any, header ...string) error {
	answer, err := w.do(method, path, body, header...)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if out != nil {
		err = json.NewDecoder(answer.Body).Decode(out)
	}
	return err
}

func (w *Watched) do(method, path string, body any, header ...string) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if body == nil {
		text = nil
	}
	request, err := http.NewRequest(method, "http://sidecar"+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if w.Token != "" {
		request.Header.Set("Worker-Token", w.Token)
	}
	for i := 1; i < len(header); i += 2 {
		request.Header.Set(header[i-1], header[i])
	}
	answer, err := w.http.Do(request)
	if err == nil && answer.StatusCode >= 300 {
		answer.Body.Close()
		err = fmt.Errorf("the sidecar answered %s to %s %s", answer.Status, method, path)
		if answer.StatusCode == http.StatusNotFound || answer.StatusCode == http.StatusGone {
			err = fmt.Errorf("%w: %w", errUnknown, err)
		}
	}
	return answer, err
}
