"""A small z-buffer renderer on the CPU: triangles with a texture, smooth normals and soft lights.

Two passes per frame. `draw` keeps the nearest triangle per sample; `shade` then computes the colour of
every sample once and averages 2x2 of them into a pixel, in linear light.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

SUPERSAMPLING = 2
FAR = np.float32(1e9)
SKIN, EYE, TEETH, WET, HAIR, CLOTH, GLASS = range(7)
_FAST = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}

# per material: wrap of red, green and blue diffuse light, gloss, sharp gloss
MATERIALS = np.array(
    [
        [0.35, 0.18, 0.12, 0.22, 0.10],  # skin: red light travels further under the surface
        [0.30, 0.30, 0.30, 0.02, 1.60],
        [0.45, 0.40, 0.35, 0.10, 0.30],
        [0.35, 0.20, 0.20, 0.25, 0.35],
        [0.25, 0.25, 0.25, 0.35, 0.00],
        [0.10, 0.10, 0.10, 0.03, 0.00],
        [0.05, 0.05, 0.05, 0.60, 0.60],
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
            for x in range(x0, x1 + 1):
                if u >= 0 and v >= 0 and u + v <= 1:
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
                u += du_dx
                v += dv_dx


@numba.njit(**_FAST)
def vertex_normals(points, triangles, normals):
    """Area-weighted unit normals (V, 3) of the mesh, written into `normals`."""
    normals[:] = 0
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
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
def shade(
    points, normals, light_of_vertex, triangles, material, uv, texture, to_linear, constants,
    key, key_colour, sky, ground, rim, rim_colour, background, index, to_srgb, out,
):  # fmt: skip
    """Colour every sample and average 2x2 into `out` (S, S, 3) uint8.

    `light_of_vertex` (V, 2) holds how much ambient and key light reaches each vertex; `texture`
    (H, W, 4) uint8 is sRGB and gloss; `background` (S, S, 3) is linear.
    """
    size = out.shape[0]
    hx, hy, hz = key[0], key[1], key[2] + np.float32(1.0)
    h = np.float32(1.0) / np.sqrt(hx * hx + hy * hy + hz * hz)
    hx, hy, hz = hx * h, hy * h, hz * h
    zero, one = np.float32(0.0), np.float32(1.0)
    for row in range(size):
        for col in range(size):
            red, green, blue = zero, zero, zero
            for sub in range(4):
                y = 2 * row + sub // 2
                x = 2 * col + sub % 2
                t = index[y, x]
                if t < 0:
                    red += background[row, col, 0]
                    green += background[row, col, 1]
                    blue += background[row, col, 2]
                    continue
                a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                ax, ay = points[a, 0], points[a, 1]
                bx, by = points[b, 0] - ax, points[b, 1] - ay
                cx, cy = points[c, 0] - ax, points[c, 1] - ay
                scale = one / (bx * cy - by * cx)
                px = np.float32(x) + np.float32(0.5) - ax
                py = np.float32(y) + np.float32(0.5) - ay
                u = (px * cy - py * cx) * scale
                v = (py * bx - px * by) * scale
                w = one - u - v
                nx = w * normals[a, 0] + u * normals[b, 0] + v * normals[c, 0]
                ny = w * normals[a, 1] + u * normals[b, 1] + v * normals[c, 1]
                nz = w * normals[a, 2] + u * normals[b, 2] + v * normals[c, 2]
                n = one / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-9))
                nx, ny, nz = nx * n, ny * n, nz * n
                ambient = w * light_of_vertex[a, 0] + u * light_of_vertex[b, 0] + v * light_of_vertex[c, 0]
                lit = w * light_of_vertex[a, 1] + u * light_of_vertex[b, 1] + v * light_of_vertex[c, 1]
                m = material[t]

                s = w * uv[a, 0] + u * uv[b, 0] + v * uv[c, 0] - np.float32(0.5)
                r = w * uv[a, 1] + u * uv[b, 1] + v * uv[c, 1] - np.float32(0.5)
                s0, r0 = int(s), int(r)
                fs, fr = s - s0, r - r0
                w00, w01 = (one - fs) * (one - fr), fs * (one - fr)
                w10, w11 = (one - fs) * fr, fs * fr
                t00, t01 = texture[r0, s0], texture[r0, s0 + 1]
                t10, t11 = texture[r0 + 1, s0], texture[r0 + 1, s0 + 1]
                base_r = w00 * to_linear[t00[0]] + w01 * to_linear[t01[0]] + w10 * to_linear[t10[0]] + w11 * to_linear[t11[0]]
                base_g = w00 * to_linear[t00[1]] + w01 * to_linear[t01[1]] + w10 * to_linear[t10[1]] + w11 * to_linear[t11[1]]
                base_b = w00 * to_linear[t00[2]] + w01 * to_linear[t01[2]] + w10 * to_linear[t10[2]] + w11 * to_linear[t11[2]]
                gloss = (w00 * t00[3] + w01 * t01[3] + w10 * t10[3] + w11 * t11[3]) * np.float32(1 / 128)
                if m == HAIR:
                    gloss = one
                if nz < 0 and m == SKIN and bx * cy - by * cx > 0:  # the inner side: inside of the mouth
                    base_r, base_g, base_b = base_r * np.float32(0.12), base_g * np.float32(0.05), base_b * np.float32(0.05)
                    gloss = zero

                dot = nx * key[0] + ny * key[1] + nz * key[2]
                wr, wg, wb = constants[m, 0], constants[m, 1], constants[m, 2]
                dr = max(zero, (dot + wr) / (one + wr)) * lit
                dg = max(zero, (dot + wg) / (one + wg)) * lit
                db = max(zero, (dot + wb) / (one + wb)) * lit
                up = np.float32(0.5) + np.float32(0.5) * ny
                edge = max(zero, one - nz)
                edge = edge * edge * edge * max(zero, np.float32(0.2) + nx * rim[0] + ny * rim[1] + nz * rim[2]) * ambient
                spec = max(zero, nx * hx + ny * hy + nz * hz)
                s2 = spec * spec
                s4 = s2 * s2
                s8 = s4 * s4
                s16 = s8 * s8
                s64 = s16 * s16 * s16 * s16
                shine = gloss * lit * (constants[m, 3] * s16 * np.float32(0.5) + constants[m, 4] * s64 * s64)
                red_ambient = ambient ** np.float32(0.75) if m == SKIN else ambient
                red += base_r * (key_colour[0] * dr + (sky[0] * up + ground[0] * (one - up)) * red_ambient + rim_colour[0] * edge) + shine * key_colour[0]
                green += base_g * (key_colour[1] * dg + (sky[1] * up + ground[1] * (one - up)) * ambient + rim_colour[1] * edge) + shine * key_colour[1]
                blue += base_b * (key_colour[2] * db + (sky[2] * up + ground[2] * (one - up)) * ambient + rim_colour[2] * edge) + shine * key_colour[2]
            k = np.float32(1023.75)  # 4095 steps over the mean of four samples
            out[row, col, 0] = to_srgb[min(4095, int(red * k))]
            out[row, col, 1] = to_srgb[min(4095, int(green * k))]
            out[row, col, 2] = to_srgb[min(4095, int(blue * k))]


TO_LINEAR = (((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4).astype(np.float32)
TO_LINEAR[:11] = np.arange(11) / 255 / 12.92


def _srgb_table() -> np.ndarray:
    """(4096,) uint8: a soft shoulder above 0.8, then the sRGB curve."""
    light = np.arange(4096) / 4095 * 1.0
    curve = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.clip(np.round(255 * curve), 0, 255).astype(np.uint8)


TO_SRGB = _srgb_table()
