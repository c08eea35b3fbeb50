"""A small z-buffer renderer on the CPU: triangles with a texture, smooth normals and soft lights.

Two passes per frame. `draw` keeps the nearest triangle per sample; `shade` then computes the
colours and averages 2x2 samples into a pixel, in linear light.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

SUPERSAMPLING = 2
FAR = np.float32(1e9)
BRIGHTEST = 2.0  # linear light that still has a value of its own
SKIN, EYE, TEETH, WET, HAIR, CLOTH = range(6)
_FAST = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}

# per material: wrap of red, green and blue diffuse light, gloss, sharp gloss
MATERIALS = np.array(
    [
        [0.35, 0.18, 0.12, 0.13, 0.10],  # skin: red light travels further under the surface
        [0.30, 0.30, 0.30, 0.02, 3.00],
        [0.45, 0.40, 0.35, 0.10, 0.30],
        [0.35, 0.20, 0.20, 0.25, 0.35],
        [0.25, 0.25, 0.25, 0.18, 0.00],
        [0.10, 0.10, 0.10, 0.03, 0.00],
    ],
    np.float32,
)


class Lights(NamedTuple):
    """Directions point from the face to the light, unit length; colours are linear RGB."""

    key: np.ndarray  # (3,)
    key_colour: np.ndarray  # (3,)
    sky: np.ndarray  # (3,) ambient light from above
    ground: np.ndarray  # (3,) ambient light from below
    rim: np.ndarray  # (3,)
    rim_colour: np.ndarray  # (3,)


@numba.njit(**_FAST)
def draw(points, triangles, see_through, uv, alpha, depth, index):
    """Rasterise `points` (V, 3: x, y in samples, distance) into `depth` and `index` (H, W).

    Triangles marked in `see_through` are skipped wherever the texture's `alpha` is below one half.
    """
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
        bx, by, bz = points[b, 0], points[b, 1], points[b, 2]
        cx, cy, cz = points[c, 0], points[c, 1], points[c, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-8:
            continue
        scale = np.float32(1.0) / area
        x0 = max(int(np.ceil(min(ax, bx, cx) - np.float32(0.5))), 0)
        x1 = min(int(np.floor(max(ax, bx, cx) - np.float32(0.5))), width - 1)
        y0 = max(int(np.ceil(min(ay, by, cy) - np.float32(0.5))), 0)
        y1 = min(int(np.floor(max(ay, by, cy) - np.float32(0.5))), height - 1)
        if x1 < x0 or y1 < y0:
            continue
        du_dx = (cy - ay) * scale  # weight of b
        du_dy = -(cx - ax) * scale
        dv_dx = -(by - ay) * scale  # weight of c
        dv_dy = (bx - ax) * scale
        test = see_through[t]
        for y in range(y0, y1 + 1):
            py = np.float32(y) + np.float32(0.5) - ay
            px = np.float32(x0) + np.float32(0.5) - ax
            u = px * du_dx + py * du_dy
            v = px * dv_dx + py * dv_dy
            entered = False
            for x in range(x0, x1 + 1):
                if u >= 0 and v >= 0 and u + v <= 1:
                    entered = True
                    z = az + u * (bz - az) + v * (cz - az)
                    if z < depth[y, x]:
                        seen = True
                        if test:
                            w = np.float32(1.0) - u - v
                            s = w * uv[a, 0] + u * uv[b, 0] + v * uv[c, 0]
                            r = w * uv[a, 1] + u * uv[b, 1] + v * uv[c, 1]
                            seen = alpha[int(r), int(s)] > 127
                        if seen:
                            depth[y, x] = z
                            index[y, x] = t
                elif entered:
                    break
                u += du_dx
                v += dv_dx


@numba.njit(**_FAST)
def _area_vector(a, b, c):
    """The cross product of two edges: a triangle's normal, as long as twice its area."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


@numba.njit(**_FAST)
def vertex_normals(points, triangles, normals):
    """Area-weighted unit normals (V, 3) of the mesh, written into `normals`."""
    normals[:] = 0
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        nx, ny, nz = _area_vector(points[a], points[b], points[c])
        for k in (a, b, c):
            normals[k, 0] += nx
            normals[k, 1] += ny
            normals[k, 2] += nz
    for k in range(points.shape[0]):
        x, y, z = normals[k, 0], normals[k, 1], normals[k, 2]
        scale = np.float32(1.0) / np.sqrt(x * x + y * y + z * z + np.float32(1e-12))
        normals[k, 0] = x * scale
        normals[k, 1] = y * scale
        normals[k, 2] = z * scale


@numba.njit(**_FAST)
def vertex_areas(points, triangles, areas):
    """Twice the area of the triangles around each vertex (V,), written into `areas`."""
    areas[:] = 0
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        nx, ny, nz = _area_vector(points[a], points[b], points[c])
        area = np.sqrt(nx * nx + ny * ny + nz * nz)
        areas[a] += area
        areas[b] += area
        areas[c] += area


@numba.njit(**_FAST)
def _sample(x, y, t, points, normals, arriving, triangles, material, uv, level, texture, lights):
    """Linear colour of triangle `t` at screen position x, y."""
    zero, half, one = np.float32(0.0), np.float32(0.5), np.float32(1.0)
    a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
    ax, ay = points[a, 0], points[a, 1]
    bx, by = points[b, 0] - ax, points[b, 1] - ay
    cx, cy = points[c, 0] - ax, points[c, 1] - ay
    area = bx * cy - by * cx
    px, py = x - ax, y - ay
    u = min(max((px * cy - py * cx) / area, zero), one)
    v = min(max((py * bx - px * by) / area, zero), one - u)
    w = one - u - v
    nx = w * normals[a, 0] + u * normals[b, 0] + v * normals[c, 0]
    ny = w * normals[a, 1] + u * normals[b, 1] + v * normals[c, 1]
    nz = w * normals[a, 2] + u * normals[b, 2] + v * normals[c, 2]
    n = one / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-9))
    nx, ny, nz = nx * n, ny * n, nz * n
    ambient = w * arriving[a, 0] + u * arriving[b, 0] + v * arriving[c, 0]
    lit = w * arriving[a, 1] + u * arriving[b, 1] + v * arriving[c, 1]

    s = (w * uv[a, 0] + u * uv[b, 0] + v * uv[c, 0]) * level - half
    r = (w * uv[a, 1] + u * uv[b, 1] + v * uv[c, 1]) * level - half
    s0, r0 = int(s), int(r)
    fs, fr = s - s0, r - r0
    w00, w01, w10, w11 = (one - fs) * (one - fr), fs * (one - fr), (one - fs) * fr, fs * fr
    r1, s1 = r0 + 1, s0 + 1
    red = w00 * texture[r0, s0, 0] + w01 * texture[r0, s1, 0]
    red += w10 * texture[r1, s0, 0] + w11 * texture[r1, s1, 0]
    green = w00 * texture[r0, s0, 1] + w01 * texture[r0, s1, 1]
    green += w10 * texture[r1, s0, 1] + w11 * texture[r1, s1, 1]
    blue = w00 * texture[r0, s0, 2] + w01 * texture[r0, s1, 2]
    blue += w10 * texture[r1, s0, 2] + w11 * texture[r1, s1, 2]
    gloss = w00 * texture[r0, s0, 3] + w01 * texture[r0, s1, 3]
    gloss += w10 * texture[r1, s0, 3] + w11 * texture[r1, s1, 3]

    m = material[t]
    if m == SKIN and area > 0:  # the side that faces away: the inside of lips and cheeks
        red, green, blue = red * np.float32(0.12), green * np.float32(0.05), blue * np.float32(0.05)
        gloss = zero
    kx, ky, kz = lights[0, 0], lights[0, 1], lights[0, 2]
    hx, hy, hz = kx, ky, kz + one
    dot = nx * kx + ny * ky + nz * kz
    wr, wg, wb = MATERIALS[m, 0], MATERIALS[m, 1], MATERIALS[m, 2]
    dr = max(zero, (dot + wr) / (one + wr)) * lit
    dg = max(zero, (dot + wg) / (one + wg)) * lit
    db = max(zero, (dot + wb) / (one + wb)) * lit
    up = (half + half * ny) * ambient
    down = ambient - up
    edge = max(zero, one - nz)
    edge = edge * edge * edge * ambient
    edge *= max(zero, np.float32(0.2) + nx * lights[4, 0] + ny * lights[4, 1] + nz * lights[4, 2])
    spec = max(zero, nx * hx + ny * hy + nz * hz) / np.sqrt(hx * hx + hy * hy + hz * hz)
    s4 = spec * spec * spec * spec
    s16 = s4 * s4 * s4 * s4
    s64 = s16 * s16 * s16 * s16
    shine = gloss * lit * (MATERIALS[m, 3] * s16 + MATERIALS[m, 4] * s64 * s64)
    deep = one
    if m == SKIN:  # red light still finds its way into creases
        deep = np.float32(1.35) - np.float32(0.35) * ambient
    red *= (
        lights[1, 0] * dr + (lights[2, 0] * up + lights[3, 0] * down) * deep + lights[5, 0] * edge
    )
    green *= lights[1, 1] * dg + lights[2, 1] * up + lights[3, 1] * down + lights[5, 1] * edge
    blue *= lights[1, 2] * db + lights[2, 2] * up + lights[3, 2] * down + lights[5, 2] * edge
    return red + shine * lights[1, 0], green + shine * lights[1, 1], blue + shine * lights[1, 2]


@numba.njit(**_FAST)
def shade(
    points, normals, arriving, triangles, material, uv, level, texture, lights, background, depth,
    index, to_srgb, out,
):  # fmt: skip
    """Colour the pixels of `out` (S, S, 3) uint8 from the 2x2 samples of `depth` and `index`.

    A pixel whose samples lie on one triangle or one smooth piece of skin is coloured once, any
    other sample by sample. `arriving` (V, 2) is how much ambient and key light reaches each vertex;
    `texture` (H, W, 4) is linear RGB and gloss, `uv` times `level` its pixels; `lights` (6, 3) the
    stacked fields of Lights; `background` (S, S, 3) is linear.
    """
    size = out.shape[0]
    for row in range(size):
        for col in range(size):
            red, green, blue = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            y, x = 2 * row, 2 * col
            t0, t1, t2, t3 = index[y, x], index[y, x + 1], index[y + 1, x], index[y + 1, x + 1]
            if t0 < 0 and t1 < 0 and t2 < 0 and t3 < 0:
                red = background[row, col, 0]
                green = background[row, col, 1]
                blue = background[row, col, 2]
            else:
                whole = t0 == t1 and t0 == t2 and t0 == t3
                if not whole and min(t0, t1, t2, t3) >= 0:
                    m = material[t0]
                    if m == SKIN and m == material[t1] and m == material[t2] and m == material[t3]:
                        z0, z1, z2, z3 = (
                            depth[y, x],
                            depth[y, x + 1],
                            depth[y + 1, x],
                            depth[y + 1, x + 1],
                        )
                        whole = max(z0, z1, z2, z3) - min(z0, z1, z2, z3) < np.float32(0.12)
                if whole:
                    red, green, blue = _sample(
                        np.float32(x + 1), np.float32(y + 1), t0, points, normals, arriving,
                        triangles, material, uv, level, texture, lights,
                    )  # fmt: skip
                else:
                    for k in range(4):
                        i, j = y + k // 2, x + k % 2
                        t = index[i, j]
                        if t < 0:
                            r = background[row, col, 0]
                            g = background[row, col, 1]
                            b = background[row, col, 2]
                        else:
                            r, g, b = _sample(
                                np.float32(j) + np.float32(0.5), np.float32(i) + np.float32(0.5), t,
                                points, normals, arriving, triangles, material, uv, level, texture,
                                lights,
                            )  # fmt: skip
                        red += np.float32(0.25) * r
                        green += np.float32(0.25) * g
                        blue += np.float32(0.25) * b
            scale = np.float32(4095.0 / BRIGHTEST)
            out[row, col, 0] = to_srgb[min(4095, int(red * scale))]
            out[row, col, 1] = to_srgb[min(4095, int(green * scale))]
            out[row, col, 2] = to_srgb[min(4095, int(blue * scale))]


def _srgb_table() -> np.ndarray:
    """(4096,) uint8: linear light up to BRIGHTEST to sRGB, with a soft shoulder above 0.6."""
    light = np.arange(4096) / 4095 * BRIGHTEST
    light = np.where(light < 0.6, light, 0.6 + 0.4 * np.tanh((light - 0.6) / 0.55))
    curve = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.clip(np.round(255 * curve), 0, 255).astype(np.uint8)


TO_SRGB = _srgb_table()
